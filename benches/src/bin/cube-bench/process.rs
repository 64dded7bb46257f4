//! Processes that belong to a measurement: what they use, and that none is left behind.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cube_benches::Result;

/// The kernel counts processor time in hundredths of a second.
const TICK_NS: u64 = 10_000_000;
/// Where user time stands among the fields behind the program's name in `/proc/PID/stat`; system time follows.
const USER_TIME_FIELD: usize = 11;

/// A program that was started for the measurement, killed when dropped.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts a program that dies with this one, with what it prints at the end of a file.
    pub(crate) fn start(program: &Path, arguments: &[String], output: &Path) -> Result<Self> {
        let log = fs::OpenOptions::new().create(true).append(true).open(output)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().map_err(|error| format!("{} through setpriv: {error}", program.display()))?;
        Ok(Self { child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails if it has ended by itself.
    pub(crate) fn check(&mut self, name: &str, log: &Path) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                Err(format!("{name} ended: {status}\n{}", fs::read_to_string(log).unwrap_or_default()).into())
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended, and that is all that is wanted.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

/// Nanoseconds of processor time that a process has used so far; none if it is gone.
pub(crate) fn used_ns(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(USER_TIME_FIELD).map(str::parse::<u64>);
    Some((times.next()?.ok()? + times.next()?.ok()?) * TICK_NS)
}

/// Bytes of memory that a process holds.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.map(|kib: u64| kib * 1024)
}

/// Nanoseconds of processor time that the whole machine has used so far.
pub(crate) fn machine_used_ns() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    // All but idle and waiting for disks, the fourth and fifth; guests, from the ninth on, are counted as users already.
    let used = fields.iter().take(8).enumerate().filter(|(index, _)| !matches!(index, 3 | 4)).map(|(_, ticks)| ticks);
    Some(used.sum::<u64>() * TICK_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_is_seen_to() {
        let me = std::process::id();
        let (before, machine) = (used_ns(me).unwrap(), machine_used_ns().unwrap());
        let mut number = 1_u64;
        while used_ns(me).unwrap() < before + 3 * TICK_NS {
            number = (0..1_000_000).fold(number, |number, step| number.wrapping_mul(31).wrapping_add(step));
        }
        assert!(number != 0 && machine_used_ns().unwrap() > machine);
        assert!(resident_bytes(me).unwrap() > 1 << 20);
        assert_eq!(used_ns(u32::MAX), None);
    }
}
