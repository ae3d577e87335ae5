//! What it is measured on.

use std::fs;
use std::path::Path;

use crate::lab::bench::Bench;
use crate::lab::kept::Kept;
use crate::lab::tables::{median, quantile};
use crate::lab::trouble::LabError;
use crate::report::grouped;

pub(super) const ESTIMATE_S: f64 = 1.0;
/// Writes of the trial, and their size: about what one put is in the log.
const WRITES: usize = 500;
const WRITE_BYTES: usize = 256;

pub(super) fn measure(bench: &mut Bench, kept: &mut Kept) -> Result<(), LabError> {
    bench.progress.step("machine: writes with fdatasync", ESTIMATE_S);
    let uname = rustix::system::uname();
    let kernel = [uname.sysname(), uname.release(), uname.machine()].map(|part| part.to_string_lossy().into_owned()).join(" ");
    let memory = rustix::system::sysinfo();
    let memory_bytes = u128::from(memory.totalram) * u128::from(memory.mem_unit);
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let model = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let facts = [
        ("processors", format!("{processors} × {}", model.unwrap_or_else(|| "unknown".to_owned()))),
        ("memory", format!("{:.0} GiB", memory_bytes as f64 / f64::from(1 << 30))),
        ("kernel", kernel),
        ("data on", file_system_of(bench.work())),
    ];
    kept.texts.extend(facts.map(|(name, value)| (name.to_owned(), value)));
    kept.values.insert("write_us".to_owned(), synced_writes_us(bench.work())?);
    Ok(())
}

/// How long overwrites of a file that is there take, each with an fdatasync: what the disk alone costs a durable write.
pub(super) fn synced_writes_us(directory: &Path) -> Result<Vec<f64>, LabError> {
    use std::os::unix::fs::FileExt;
    let refused = |source| LabError::file(directory, source);
    let file = tempfile::tempfile_in(directory).map_err(refused)?;
    file.write_all_at(&vec![0; WRITES * WRITE_BYTES], 0).map_err(refused)?;
    file.sync_all().map_err(refused)?;
    let write = |index: usize| {
        let begun = std::time::Instant::now();
        file.write_all_at(&[1; WRITE_BYTES], (index * WRITE_BYTES) as u64)?;
        file.sync_data()?;
        Ok(begun.elapsed().as_secs_f64() * 1e6)
    };
    (0..WRITES).map(write).collect::<Result<_, _>>().map_err(refused)
}

/// The type of the file system that holds a directory.
fn file_system_of(directory: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        directory.starts_with(at).then(|| (at.len(), kind.to_owned()))
    });
    mounts.max_by_key(|(length, _)| *length).map_or_else(|| "an unknown file system".to_owned(), |(_, kind)| kind)
}

pub(super) fn text(kept: &Kept) -> String {
    let fact = |name: &str| kept.texts.get(name).cloned().unwrap_or_default();
    let writes = kept.values("write_us");
    format!(
        "- {}, {} of memory, shared by the broker, all clients and whatever else runs\n- {}; data on {}\n- the disk alone: {WRITE_BYTES} bytes \
         written and synced (fdatasync) take {} µs in the median, {} µs at p99 ({WRITES} times)",
        fact("processors"),
        fact("memory"),
        fact("kernel"),
        fact("data on"),
        grouped(median(writes)),
        grouped(quantile(writes, 0.99)),
    )
}
