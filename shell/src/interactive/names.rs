//! What can be completed of this cluster: keyspaces, tables, nodes. Asked for in the background after every statement, so
//! that typing never waits for a node.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::session::Session;

/// A node that takes longer tells nothing that is worth waiting for.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Names of the cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) keyspaces: Vec<String>,
    /// As `keyspace.table`.
    pub(super) tables: Vec<String>,
    pub(super) nodes: Vec<String>,
    /// Who was asked, and who answered.
    answered: Option<(String, String)>,
}

/// Shared by those who ask and those who complete.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared(Arc<Mutex<Names>>);

impl Shared {
    pub(super) fn now(&self) -> Names {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks for the names anew, in the background.
    pub(super) fn refresh(&self, runtime: &Runtime, session: &Session) {
        let (Some(client), Some(contact)) = (session.connected(), session.contact_address()) else { return };
        let names = self.clone();
        runtime.spawn(async move {
            let admin = client.admin().timeout(ANSWER_MAX).first(&contact);
            let (Ok(members), Ok(schema)) = (admin.nodes().await, admin.schema().await) else { return };
            let tables = schema
                .answer
                .iter()
                .flat_map(|keyspace| keyspace.tables.iter().map(|table| format!("{}.{}", keyspace.name, table.name)));
            let fresh = Names {
                keyspaces: schema.answer.iter().map(|keyspace| keyspace.name.clone()).collect(),
                tables: tables.collect(),
                nodes: members.answer.into_iter().map(|member| member.name).collect(),
                answered: Some((contact, members.by)),
            };
            *names.0.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        });
    }

    /// Lets the session know who answers, if it still talks to the one that was asked.
    pub(super) fn take_contact(&self, session: &mut Session) {
        let answered = self.0.lock().unwrap_or_else(PoisonError::into_inner).answered.take();
        if let Some((asked, by)) = answered
            && session.contact_address().as_ref() == Some(&asked)
        {
            session.heard(&by);
        }
    }
}
