//! Questions that each node answers for itself alone: every live one is asked at the same time. Those that do not answer
//! are named, because what they would have told is missing from the sum.

use cube_client::Error;
use cube_client::admin::{Admin, Member, Told};
use futures::future::join_all;

use crate::error::ShellError;
use crate::outcome::{Cell, Outcome, Tone};
use crate::session::Session;

/// What nodes told.
pub(super) struct Asked<T> {
    /// All members, as the node that is talked to sees them.
    pub(super) members: Vec<Member>,
    /// By the name of the node.
    pub(super) told: Vec<(String, T)>,
    /// The names of those that told nothing.
    pub(super) silent: Vec<String>,
}

/// Asks every live node. Where none of them answers, that is an error.
pub(super) async fn ask<T>(
    session: &mut Session,
    call: impl AsyncFn(Admin) -> Result<Told<T>, Error>,
) -> Result<Asked<T>, ShellError> {
    let members = session.members().await?.answer;
    let client = session.client().await?;
    let time = session.left();
    let answers = members.iter().filter(|member| member.alive).map(|member| {
        let answer = call(client.admin().only(&member.grpc).timeout(time));
        async move { (member.name.clone(), answer.await) }
    });
    let answers = join_all(answers).await;
    let dead = members.iter().filter(|member| !member.alive).map(|member| member.name.clone());
    let mut silent: Vec<String> = dead.collect();
    let (mut told, mut failure) = (Vec::new(), None);
    for (name, answer) in answers {
        match answer {
            Ok(answer) => told.push((name, answer.answer)),
            Err(error) => {
                silent.push(name);
                failure = Some(error);
            }
        }
    }
    silent.sort();
    match failure {
        Some(error) if told.is_empty() => Err(error.into()),
        _ => Ok(Asked { members, told, silent }),
    }
}

/// Names those that told nothing.
pub(super) fn silent_line(outcome: Outcome, silent: &[String]) -> Outcome {
    let outcome = outcome.fact("notCounted", Cell::Names(silent.to_vec()));
    if silent.is_empty() {
        return outcome;
    }
    outcome.line(Tone::Warn, format!("Not counted, because they do not answer: {}", silent.join(", ")))
}
