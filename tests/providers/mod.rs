//! Real servers of the local provider.

#[cfg(feature = "failpoints")]
mod crash;
mod embedded;
mod held;
mod parameters;
mod recovery;
mod run_directory;
mod servers;
mod silence;
mod trouble;
