//! Compiles our own CRI proto file; protox is a protobuf compiler in Rust, so no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["runtime/v1/cri.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // AuthConfig's Debug is written by hand: it must not print secrets.
        .skip_debug(["runtime.v1.AuthConfig"])
        .btree_map(".")
        .compile_fds(files)?;
    Ok(())
}
