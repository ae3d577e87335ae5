//! Compiles libzmq 4.3.5 with CURVE into a static library.
//!
//! - The sources come with `zeromq-src` and `libsodium-sys-stable`: nothing is
//!   downloaded and no system package is needed beyond a C/C++ compiler and `make`.
//! - `zeromq-src` compiles with an empty `platform.hpp`, so every feature that
//!   libzmq's own `configure` would detect is off unless it is defined here.
//! - The defines below are those that `configure` finds on any Linux of the last
//!   decade (kernel 2.6.39, glibc 2.12 or musl). Other targets keep what
//!   `zeromq-src` gives them, which compiles everywhere but lacks these features.
//! - `accept.h` is put before each file: with it a process that has no descriptor
//!   left lives on. `epoll.h` is put behind that: a message needs fewer system
//!   calls. `handshake.hpp` is put behind both: peers don't choose their routing
//!   ids, and say little of themselves.
//! - `HAVE_FORK` is not defined: libzmq would ask for its process's number a dozen
//!   times for each message, lest a forked child go on with a context. None does:
//!   that is forbidden (`src/transport/mod.rs`), whatever libzmq makes of it.
//!
//! `tests/tests/libzmq_effects.rs` in the repository shows that each of the
//! features that matter really works in the library built here.

use std::env;

use zeromq_src::LibLocation;

/// What `configure` would have found on Linux: the macro, and its value.
///
/// Each name occurs in libzmq's sources; grep them again when updating.
const LINUX_FEATURES: &[(&str, &str)] = &[
    // TCP keepalive: without these the socket options are accepted and ignored.
    ("ZMQ_HAVE_SO_KEEPALIVE", "1"),
    ("ZMQ_HAVE_TCP_KEEPCNT", "1"),
    ("ZMQ_HAVE_TCP_KEEPIDLE", "1"),
    ("ZMQ_HAVE_TCP_KEEPINTVL", "1"),
    // The kernel's word on who is at the other end of an ipc connection, handed
    // to the ZAP handler in the address frame.
    ("ZMQ_HAVE_SO_PEERCRED", "1"),
    // Thread wake-ups through one eventfd instead of a pair of sockets.
    ("ZMQ_HAVE_EVENTFD", "1"),
    ("ZMQ_HAVE_EVENTFD_CLOEXEC", "1"),
    // No descriptor leaks into programs started by this process.
    ("ZMQ_HAVE_SOCK_CLOEXEC", "1"),
    ("HAVE_ACCEPT4", "1"),
    ("ZMQ_IOTHREAD_POLLER_USE_EPOLL_CLOEXEC", "1"),
    // `ipc://*` binds inside a private directory instead of at a guessable name.
    ("HAVE_MKDTEMP", "1"),
    // Commands and queue chunks do not share cache lines between threads.
    ("HAVE_POSIX_MEMALIGN", "1"),
    ("ZMQ_CACHELINE_SIZE", "64"),
    ("HAVE_CLOCK_GETTIME", "1"),
    ("ZMQ_HAVE_NOEXCEPT", "1"),
    // Threads are named ZMQbg/… in top, gdb and core files, and can be pinned.
    ("ZMQ_HAVE_PTHREAD_SETNAME_2", "1"),
    ("ZMQ_HAVE_PTHREAD_SET_AFFINITY", "1"),
    // Interface names in endpoints (`tcp://eth0:*`, IPv6 zones) and options.
    ("ZMQ_HAVE_IFADDRS", "1"),
    ("HAVE_IF_NAMETOINDEX", "1"),
    ("ZMQ_HAVE_SO_BINDTODEVICE", "1"),
    ("ZMQ_HAVE_SO_PRIORITY", "1"),
    ("ZMQ_HAVE_BUSY_POLL", "1"),
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=accept.h");
    println!("cargo:rerun-if-changed=epoll.h");
    println!("cargo:rerun-if-changed=handshake.hpp");

    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        define_for_all_files(LINUX_FEATURES);
    }

    zeromq_src::Build::new().with_libsodium(Some(libsodium())).build();

    // For tests/header.rs: the header of the library just built.
    let out_dir = env::var("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    println!("cargo:rustc-env=ZMQ_SYS_HEADER={out_dir}/source/include/zmq.h");
}

/// Where `libsodium-sys-stable` put its library and headers.
///
/// Its build script hands both over when it compiles the source it carries, and
/// when it found the library through pkg-config or vcpkg.
fn libsodium() -> LibLocation {
    let from_dependency = |name: &str| {
        println!("cargo:rerun-if-env-changed={name}");
        env::var_os(name).unwrap_or_else(|| {
            panic!(
                "{name} is not set, so libsodium's location is unknown. SODIUM_LIB_DIR \
                 names no headers: unset it to build libsodium from the source in the crate, \
                 or set SODIUM_USE_PKG_CONFIG to use an installed one."
            )
        })
    };
    LibLocation::new(from_dependency("DEP_SODIUM_LIB"), from_dependency("DEP_SODIUM_INCLUDE"))
}

/// Adds the macros to the compiler's command line for every file of libzmq.
///
/// `zeromq-src` offers no way in for defines; the `cc` crate under it reads the
/// flags from the environment, the variable with the target's name being the
/// last and strongest.
fn define_for_all_files(macros: &[(&str, &str)]) {
    let target = env::var("TARGET").expect("cargo sets TARGET for build scripts");
    let variable = format!("CXXFLAGS_{target}");
    let mut flags = env::var(&variable).unwrap_or_default();
    for (name, value) in macros {
        flags.push_str(&format!(" -D{name}={value}"));
    }
    // Found in the working directory, which is this package's: a full path could have spaces, at which flags are split.
    flags.push_str(" -include accept.h -include epoll.h -include handshake.hpp");
    // SAFETY: the build script has one thread, so nothing reads the environment
    // at the same time.
    unsafe { env::set_var(variable, flags) };
}
