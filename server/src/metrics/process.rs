//! The process, by the names that all programs give these numbers, and which build it is.

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use super::page::{Labels, Page, Written, bytes, family, number, seconds, whole};

pub(super) fn write(page: &mut Page<'_>) -> Written {
    let build = vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("arch", std::env::consts::ARCH.to_owned()),
        ("os", std::env::consts::OS.to_owned()),
    ];
    page.info(family("cube_build", "Which build of Cube KV this is"), &build)?;
    let id = Pid::from_u32(std::process::id());
    let kind = ProcessRefreshKind::nothing().with_cpu().with_memory();
    // A system that does not tell leaves the families empty.
    let mut system = System::new().ok();
    if let Some(system) = &mut system {
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[id]), false, kind);
    }
    let process = system.as_ref().and_then(|system| system.process(id));
    let one = |value: Option<f64>| value.map(|value| (Labels::new(), value));
    page.counter_of_parts(
        seconds("process_cpu", "Processor time that the process has used"),
        one(process.map(|process| whole(process.accumulated_cpu_time()) / 1_000.0)),
    )?;
    page.gauge(
        bytes("process_resident_memory", "Memory of the process that is in use"),
        one(process.map(|process| whole(process.memory()))),
    )?;
    page.gauge(
        bytes("process_virtual_memory", "Memory that the process has mapped"),
        one(process.map(|process| whole(process.virtual_memory()))),
    )?;
    page.gauge(
        seconds("process_start_time", "When the process started, since 1970"),
        one(process.map(|process| whole(process.start_time()))),
    )?;
    let files = process.and_then(|process| process.open_files());
    page.gauge(family("process_open_fds", "Files that the process has open"), one(files.map(number)))?;
    let files_max = process.and_then(|process| process.open_files_limit());
    page.gauge(family("process_max_fds", "Files that the process may have open"), one(files_max.map(number)))
}
