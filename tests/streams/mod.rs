//! `Subscribe`, through the real API against real servers.

mod batches;
mod durable;
mod endings;
mod events;
mod identities;
mod leftovers;
pub mod model;
mod promises;
mod refusals;
pub mod rig;
mod stalls;
pub mod subscriber;
mod truth;
mod values;
