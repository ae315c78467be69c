//! `longshore`, the operator's command; called as `crictl`, it is crictl.

fn main() -> std::process::ExitCode {
    longshore::main(std::env::args_os().collect())
}
