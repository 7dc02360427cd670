//! How the program can be served: as whom, where, and with which metadata.

mod embedded;
mod lost_files;
mod telemetry;
mod tls;
mod user;
