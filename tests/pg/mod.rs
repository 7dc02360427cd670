//! The rooms of `pg` against real servers.

mod changes;
mod connect;
mod replication;
mod rig;
mod shutdown;
