//! Real servers of the local provider.

#[cfg(feature = "failpoints")]
mod crash;
mod embedded;
mod parameters;
mod servers;
mod trouble;
