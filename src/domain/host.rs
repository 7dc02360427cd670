//! Hosts: machines that run servers of the provider `local`.

use std::ops::RangeInclusive;

use uuid::Uuid;

/// A host as a process of it knows it.
#[derive(Clone, Debug)]
pub struct Host {
    /// Id of its `local.root`.
    pub id: Uuid,
    /// Its name, for people.
    pub name: String,
    /// Ports for its servers.
    pub ports: RangeInclusive<u16>,
}
