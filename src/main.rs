//! The program: parse, run the command, exit code.

/// A write makes some hundred small allocations on its way through three nodes, handed from thread to thread; the
/// system's allocator takes a fifth of the time for them (see docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    super_node::cli::main()
}
