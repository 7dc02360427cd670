//! Who calls, and may they.
//!
//! Principals come from the connection, bindings from the settings. Tokens and stored
//! bindings have their place here: [`principal::identify`] and [`policy::Policy`].

pub mod certificate;
pub mod peer;
pub mod permission;
pub mod policy;
pub mod principal;

pub use peer::Peer;
pub use permission::Permission;
pub use policy::Policy;
