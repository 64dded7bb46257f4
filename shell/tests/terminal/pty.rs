//! A pseudo terminal with the shell in it, typed at and read like a person would: by what appears.
//!
//! `script` of util-linux makes the terminal. The one thing a terminal must answer by itself is where its cursor is.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout, timeout_at};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a program sends to ask where the cursor is, and what a terminal answers.
const CURSOR_QUESTION: &str = "\x1b[6n";
const CURSOR_ANSWER: &[u8] = b"\x1b[1;1R";

pub(crate) const CTRL_C: &str = "\x03";
pub(crate) const CTRL_D: &str = "\x04";
pub(crate) const UP: &str = "\x1b[A";
pub(crate) const TAB: &str = "\t";
pub(crate) const ENTER: &str = "\r";

pub(crate) struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    screen: ChildStdout,
    /// What has appeared and was not waited for yet.
    unread: Vec<u8>,
    answered: usize,
}

impl Terminal {
    /// Starts `cube` with these arguments, as they would be typed behind it.
    pub(crate) fn start(arguments: &str, history: &std::path::Path) -> Self {
        let cube = env!("CARGO_BIN_EXE_cube");
        let line = format!("stty cols 120 rows 50; exec '{cube}' {arguments}");
        let mut command = Command::new("script");
        command
            .args(["-qec", &line, "/dev/null"])
            .env("NO_COLOR", "1")
            .env("TERM", "xterm")
            .env("CUBE_HISTORY", history);
        command.env("SHELL", "/bin/sh").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("script of util-linux");
        let (keyboard, screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, keyboard, screen, unread: Vec::new(), answered: 0 }
    }

    pub(crate) async fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).await.unwrap();
        self.keyboard.flush().await.unwrap();
    }

    /// Types a line and its end.
    pub(crate) async fn enter(&mut self, line: &str) {
        self.type_in(&format!("{line}{ENTER}")).await;
    }

    /// Waits until this appears, and gives what appeared with it.
    pub(crate) async fn expect(&mut self, text: &str) -> String {
        match self.expect_within(text, PATIENCE).await {
            Some(seen) => seen,
            None => panic!("{text:?} did not appear: {}", String::from_utf8_lossy(&self.unread)),
        }
    }

    /// The same, and nothing if it does not appear in this time.
    pub(crate) async fn expect_within(&mut self, text: &str, time: Duration) -> Option<String> {
        let deadline = Instant::now() + time;
        loop {
            let found = self.unread.windows(text.len()).position(|window| window == text.as_bytes());
            if let Some(at) = found {
                let seen: Vec<u8> = self.unread.drain(..at + text.len()).collect();
                self.answered = self.answered.saturating_sub(seen.len());
                return Some(String::from_utf8_lossy(&seen).into_owned());
            }
            let mut bytes = [0; 16 << 10];
            let read = timeout_at(deadline, self.screen.read(&mut bytes)).await.ok()?.unwrap();
            assert!(read > 0, "the shell ended: {}", String::from_utf8_lossy(&self.unread));
            self.unread.extend_from_slice(&bytes[..read]);
            self.answer().await;
        }
    }

    async fn answer(&mut self) {
        loop {
            let unanswered = &self.unread[self.answered..];
            let question = CURSOR_QUESTION.as_bytes();
            let Some(at) = unanswered.windows(question.len()).position(|window| window == question) else {
                // The beginning of a question may stand at the end; nothing before it is looked at again.
                self.answered = self.answered.max(self.unread.len().saturating_sub(question.len() - 1));
                return;
            };
            self.answered += at + question.len();
            self.keyboard.write_all(CURSOR_ANSWER).await.unwrap();
        }
    }

    /// Waits until the shell ends by itself: its exit code.
    pub(crate) async fn end(self) -> i32 {
        self.rest().await.1
    }

    /// Waits until the shell ends by itself: what appeared since it was last waited for, and its exit code.
    pub(crate) async fn rest(mut self) -> (String, i32) {
        let ended = timeout(PATIENCE, async {
            let mut bytes = [0; 16 << 10];
            while let Ok(read @ 1..) = self.screen.read(&mut bytes).await {
                self.unread.extend_from_slice(&bytes[..read]);
            }
            self.child.wait().await.unwrap()
        });
        let ended = ended.await.expect("the shell does not end");
        (String::from_utf8_lossy(&self.unread).into_owned(), ended.code().unwrap())
    }
}
