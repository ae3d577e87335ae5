//! `kvbroker`: all of it is in the library.

fn main() -> std::process::ExitCode {
    kvbroker_daemon::main()
}
