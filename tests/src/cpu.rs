//! Processor time of a process.

use std::io;

/// Processor time that a process has used so far, all threads together, seconds.
///
/// # Errors
/// There is no such process, or the system does not tell.
pub fn cpu_seconds(pid: u32) -> io::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the name, which may contain anything; user and system time are the 12th and 13th field there (man 5 proc_pid_stat).
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
