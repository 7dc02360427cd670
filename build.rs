//! Compiles the protos: message and service code, validation rules, descriptors.

use std::{collections::BTreeMap, env, error::Error, fs, path::PathBuf};

/// Every proto with messages of ours, or of Google's that we serve.
const PROTOS: &[&str] = &[
    "proto/google/longrunning/operations.proto",
    "proto/google/rpc/error_details.proto",
    "proto/howdah/options/v1/permission.proto",
    "proto/howdah/options/v1/secret.proto",
    "proto/howdah/v1/audit_service.proto",
    "proto/howdah/v1/change.proto",
    "proto/howdah/v1/change_stream_service.proto",
    "proto/howdah/v1/database_service.proto",
    "proto/howdah/v1/instance_service.proto",
    "proto/howdah/v1/operation_metadata.proto",
];

/// Messages with secret fields, whose `Debug` is written by hand in `src/pb.rs`.
const SECRET_MESSAGES: &[&str] = &["howdah.v1.Connection"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=migrations");
    println!("cargo:rerun-if-changed=docs/errors");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("error_pages.rs"), error_pages()?)?;
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(PROTOS.iter().map(|path| path.trim_start_matches("proto/")))?;
    let descriptors = out.join("descriptors.bin");
    fs::write(&descriptors, compiler.encode_file_descriptor_set())?;

    let mut config = tonic_prost_build::Config::new();
    config.skip_debug(SECRET_MESSAGES);
    // Encoded maps must be the same every time: requests are known again by their hash.
    config.btree_map(["."]);
    config.enable_type_names();
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_well_known_types(false)
        .compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    compile_encoded_server(&compiler, &out)?;
    prost_protovalidate_build::Builder::new()
        .file_descriptor_set_path(&descriptors)?
        .fail_on_runtime_only(true)
        .compile()?;
    Ok(())
}

/// Compiles the server of the change streams once more, with batches that are encoded already.
fn compile_encoded_server(
    compiler: &protox::Compiler,
    out: &std::path::Path,
) -> Result<(), Box<dyn Error>> {
    let directory = out.join("encoded");
    fs::create_dir_all(&directory)?;
    let mut files = compiler.file_descriptor_set();
    files
        .file
        .retain(|file| file.name() == "howdah/v1/change_stream_service.proto");
    tonic_prost_build::configure()
        .build_client(false)
        .out_dir(&directory)
        .extern_path(".google.longrunning", "crate::pb::google::longrunning")
        .extern_path(".howdah.v1", "crate::pb::v1")
        .extern_path(".howdah.v1.ChangeBatch", "crate::pb::EncodedBatch")
        .compile_fds(files)?;
    Ok(())
}

/// Source of a constant with the pages of `docs/errors`, by reason and in that order.
fn error_pages() -> Result<String, Box<dyn Error>> {
    let directory = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("docs/errors");
    let mut pages = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let reason = path.file_stem().unwrap_or_default().to_string_lossy();
        if path.extension().is_some_and(|extension| extension == "md") && reason != "README" {
            pages.insert(reason.into_owned(), fs::read_to_string(&path)?);
        }
    }
    let pages: Vec<_> = pages.into_iter().collect();
    Ok(format!(
        "/// Reasons with their pages.\nconst PAGES: &[(&str, &str)] = &{pages:?};\n"
    ))
}
