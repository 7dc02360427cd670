//! How the program can be served: as whom, where, and with which metadata.

mod backup;
mod collector;
mod dev;
mod doctor;
mod embedded;
mod lost_files;
mod restore;
mod telemetry;
mod tls;
mod traces;
mod user;

pub(crate) use self::tls::Files;
