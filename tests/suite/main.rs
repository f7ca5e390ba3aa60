//! The suite: one binary, so that it is linked once.

#![allow(
    clippy::large_futures,
    clippy::panic,
    clippy::too_many_lines,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "tests may be generous with memory, must fail loudly, and read best in one piece"
)]

mod control;
mod deploy;
mod failures;
mod http;
mod malformed;
mod mesh;
mod policy;
mod redirect;
mod routing;

fn main() {
    let mut arguments = libtest_mimic::Arguments::from_args();
    // Most tests wait more than they compute.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(cores + 1);
    let trials = [
        routing::trials(),
        malformed::trials(),
        http::trials(),
        control::trials(),
        policy::trials(),
        failures::trials(),
        mesh::trials(),
        redirect::trials(),
        deploy::trials(),
    ];
    let trials = weir_tests::alone_first(trials.into_iter().flatten().collect());
    libtest_mimic::run(&arguments, trials).exit();
}
