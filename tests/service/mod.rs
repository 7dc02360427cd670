//! The service as users meet it: the real program, called over its API.

mod admission;
mod audit;
mod availability;
mod cancel;
mod cancellation;
mod change_streams;
mod command_line;
mod completion;
mod crash;
mod crowd;
mod deletion;
mod drift;
mod drivers;
mod fairness;
mod filters;
mod full_disk;
mod gone_host;
mod idempotency;
mod input;
mod keys;
mod large_pages;
mod leases;
mod lists;
mod local_root;
mod locales;
mod logs;
mod measurements;
pub(crate) mod metadata;
mod newcomers;
mod orphans;
mod other_release;
mod panics;
mod purge;
mod replicas;
mod rig;
mod secrets;
mod servers;
mod shutdown;
mod simulated;
mod sockets;
mod status;
mod supervision;
mod terminal;
mod tour;
mod trash;
mod validate_only;
mod waiting;
mod withdrawal;

pub(crate) use self::{
    cancellation::clients_leave,
    input::goes_away_for as metadata_goes_away_for,
    rig::{counter, run_sql},
    simulated::World as SimulatedWorld,
    waiting::{
        a_frozen_server_is_not_available, a_statement_on_a_frozen_server_is_given_up,
        frozen_servers_leave_workers_beside_cancelled_work,
        frozen_servers_leave_workers_for_others,
    },
};
