//! Durable change streams as resources: made, shown, listed and deleted.

mod acknowledgements;
mod adoption;
mod command_line;
mod health;
mod lifecycle;
mod lists;
mod making;
mod refusals;
pub(super) mod rig;
mod waiting;
