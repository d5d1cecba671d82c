//! The program: parse, run the command, exit code.

fn main() -> std::process::ExitCode {
    super_node::cli::main()
}
