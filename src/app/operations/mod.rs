//! The step engine, and the long operations that it runs.
//!
//! A worker claims an operation: it gets a lease and a token that only grows. It executes the
//! steps in order. Each step has an effect, which may run twice, and then one commit. The commit
//! checks the token, stores the result of the effect and moves the operation to the next step. A
//! failed step is retried. If retries do not help, the finished steps are undone in reverse
//! order.

mod agenda;
mod change_stream_server;
mod context;
mod create_change_stream;
mod create_database;
mod create_instance;
mod delete_change_stream;
mod delete_database;
mod delete_instance;
mod dispatch;
mod engine;
mod held;
mod instance_steps;
mod keeper;
mod plan;
mod plans;
mod purge_instance;
mod pursuit;
mod retry;
mod run_instance;

pub(crate) use agenda::Agenda;
pub(crate) use delete_change_stream::DeleteChangeStreamParameters;
pub(crate) use delete_database::DeleteDatabaseParameters;
pub(crate) use delete_instance::DeleteInstanceParameters;
pub(crate) use dispatch::{LONG_FOR_EACH, StepEngine};
pub(in crate::app) use instance_steps::RecoverParameters;
pub(crate) use plan::Plan;
pub(crate) use plans::{
    ABANDON_INSTANCE, CREATE_CHANGE_STREAM, CREATE_DATABASE, CREATE_INSTANCE, DELETE_CHANGE_STREAM,
    DELETE_DATABASE, DELETE_INSTANCE, PURGE_INSTANCE, RECOVER_INSTANCE, REMOVE_INSTANCE,
    RESTART_INSTANCE, START_INSTANCE, STOP_INSTANCE, UNDELETE_INSTANCE,
};
pub use plans::{PlanPoints, points};
pub(crate) use purge_instance::PurgeInstanceParameters;
