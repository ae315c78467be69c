//! Compiles our own proto files; protox is a protobuf compiler in Rust, so no `protoc` is needed.

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(
        [
            "runtime/v1/cri.proto",
            "longshore/v1/progress.proto",
            "longshore/v1/images.proto",
            "longshore/v1/store.proto",
            "longshore/v1/operations.proto",
            "longshore/v1/files.proto",
        ],
        ["proto"],
    )?;
    // For tools that print and read messages as JSON by reflection. Comments and positions stay out.
    let mut described = files.clone();
    for file in &mut described.file {
        file.source_code_info = None;
    }
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("cri.fds"), described.encode_to_vec())?;
    // Message names, by which reflection finds descriptors.
    let mut config = prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        // Their Debug is written by hand: it must not print secrets.
        .skip_debug(["runtime.v1.AuthConfig", "longshore.v1.PullCredentials"])
        .btree_map(".")
        .compile_fds_with_config(files, config)?;
    Ok(())
}
