//! The connections to the metadata database.
//!
//! sqlx has a pool of its own, but it connects inside the caller's future, sends a ping
//! each time a connection comes back, and waits for both without a bound: callers with
//! short deadlines starve it, and a host that goes silent holds it for ever. Here a
//! connection is made, tested and cleaned in tasks of the pool, each within a bound, and a
//! caller that goes away in the middle costs at most one round trip.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use sqlx::{Connection as _, PgConnection};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::TaskTracker;

use super::{
    connect::{self, Connector, timed_out},
    fault::{ends_session, is_disk_full, passes},
};
use crate::telemetry::pool::{Standing, record_wait};

/// A connection that was idle for longer is tested before it is used.
const TEST_AFTER_IDLE: Duration = Duration::from_secs(1);

/// Longest wait for the answer to a test.
const TEST_LIMIT: Duration = Duration::from_secs(2);

/// Longest wait until a connection that was left in the middle of a call is usable again.
const CLEAN_LIMIT: Duration = Duration::from_secs(2);

/// After so many cleanings a connection forgets all prepared statements. A call that ends
/// while its statement is being prepared leaves the statement on the server, unknown here.
const CLEANINGS_UNTIL_FORGET: u32 = 64;

/// Longest wait for a connection to close in order.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// A connection that was idle for longer is closed: a peak is over.
const IDLE_LIMIT: Duration = Duration::from_secs(600);

/// An older connection is closed: its server process may hold memory of long ago.
const AGE_LIMIT: Duration = Duration::from_secs(1800);

/// First and longest pause between two tries to connect.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// How the pool behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Most connections at once.
    pub(super) connections: u32,
    /// Longest wait for a connection.
    pub(super) acquire: Duration,
    /// Longest wait for the answer to a call; then its connection is closed.
    pub(super) call: Duration,
}

/// Connections that are all alike. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connector: Connector,
    limits: Limits,
    /// One permit for each connection that may be in use. Fair: first come, first served.
    free: Arc<Semaphore>,
    /// Idle connections. The one used last is taken first.
    idle: Mutex<Vec<Session>>,
    /// Grows when a call shows that the server has gone away or has changed. A connection
    /// of a former epoch is tested before it is used.
    epoch: AtomicU64,
    /// A call has met a full disk since it was last looked whether there is room.
    disk_full: AtomicBool,
    /// Callers that wait for a connection.
    waiting: AtomicU64,
    /// What runs without a caller.
    tasks: TaskTracker,
}

/// Counts a caller that waits until it is dropped.
struct Waiting<'a>(&'a AtomicU64);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a AtomicU64) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection with what is known of it.
#[derive(Debug)]
struct Session {
    connection: PgConnection,
    made: Instant,
    used: Instant,
    epoch: u64,
    /// How often a caller left it in the middle of a call.
    cleanings: u32,
}

impl Session {
    fn is_old(&self) -> bool {
        self.used.elapsed() >= IDLE_LIMIT || self.made.elapsed() >= AGE_LIMIT
    }
}

/// A connection in use by one caller. Dropped, it goes back to the pool: at once when it
/// is at rest, after a cleaning when it is in the middle of a call or a transaction.
#[derive(Debug)]
pub(crate) struct Lease {
    pool: Pool,
    /// Taken out when it is dropped.
    session: Option<(Session, OwnedSemaphorePermit)>,
    state: State,
}

/// How a connection in use stands.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// A call has been sent and its answer was not read to the end.
    busy: bool,
    /// A transaction has begun and was neither committed nor rolled back.
    in_transaction: bool,
    /// A statement of the transaction has failed: it can only be rolled back.
    aborted: bool,
    /// It is of no more use.
    broken: bool,
}

impl Pool {
    pub(super) fn new(connector: Connector, limits: Limits) -> Self {
        Self(Arc::new(Inner {
            connector,
            limits,
            free: Arc::new(Semaphore::new(limits.connections as usize)),
            idle: Mutex::default(),
            epoch: AtomicU64::new(0),
            disk_full: AtomicBool::new(false),
            waiting: AtomicU64::new(0),
            tasks: TaskTracker::new(),
        }))
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.0.connector
    }

    /// How many connections are in use and how many callers wait.
    pub(super) fn standing(&self) -> Standing {
        let max = u64::from(self.0.limits.connections);
        let free = u64::try_from(self.0.free.available_permits()).unwrap_or(max);
        Standing {
            used: max.saturating_sub(free),
            idle: u64::try_from(self.idle().len()).unwrap_or_default(),
            max,
            waiting: self.0.waiting.load(Ordering::Relaxed),
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.0.limits
    }

    /// For what goes on without a caller; waited for at the end.
    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    /// Longest time from the wait for a connection to the end of a call.
    pub(super) fn longest_call(&self) -> Duration {
        self.0.limits.acquire + self.0.limits.call
    }

    /// A connection, within the limit. Whatever has to be waited for goes on in a task
    /// when the caller goes away, so that the next one finds the connection ready.
    pub(super) async fn acquire(&self) -> Result<Lease, sqlx::Error> {
        let begun = Instant::now();
        let acquired = self.acquire_until(begun + self.0.limits.acquire).await;
        let timed_out = matches!(acquired, Err(sqlx::Error::PoolTimedOut));
        record_wait(begun.elapsed(), timed_out);
        acquired
    }

    async fn acquire_until(&self, deadline: Instant) -> Result<Lease, sqlx::Error> {
        let _waiting = Waiting::new(&self.0.waiting);
        let waiting = timeout_at(deadline, Arc::clone(&self.0.free).acquire_owned());
        let permit = match waiting.await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(sqlx::Error::PoolClosed),
            Err(_) => return Err(sqlx::Error::PoolTimedOut),
        };
        match self.take_idle() {
            Some(session) if self.is_fresh(&session) => Ok(self.lease(session, permit)),
            session => self.prepare(session, permit, deadline).await,
        }
    }

    /// Tests or makes a connection in a task of the pool. The task has a limit of its own:
    /// the callers that wait the longest have little time left, and if a connection had to
    /// be made within that, none would ever be made while callers queue.
    async fn prepare(
        &self,
        session: Option<Session>,
        permit: OwnedSemaphorePermit,
        deadline: Instant,
    ) -> Result<Lease, sqlx::Error> {
        let (sender, receiver) = oneshot::channel();
        let pool = self.clone();
        self.0.tasks.spawn(async move {
            let limit = Instant::now() + pool.0.limits.acquire;
            let prepared = pool.test_or_connect(session, limit).await;
            let prepared = prepared.map(|session| pool.lease(session, permit));
            // Without a caller the lease comes back and is dropped: it is idle then.
            drop(sender.send(prepared));
        });
        match timeout_at(deadline, receiver).await {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(_)) => Err(sqlx::Error::PoolClosed),
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }

    async fn test_or_connect(
        &self,
        mut idle: Option<Session>,
        limit: Instant,
    ) -> Result<Session, sqlx::Error> {
        while let Some(mut session) = idle {
            if !session.is_old() {
                let epoch = self.epoch();
                if self.test(&mut session).await.is_ok() {
                    session.epoch = epoch;
                    return Ok(session);
                }
                // Those that were used before it are as dead; a test each takes seconds.
                self.idle().retain(|other| other.used > session.used);
                break;
            }
            idle = self.take_idle();
        }
        self.connect(limit).await
    }

    /// Looks whether a connection is alive and, when the server may be another one by
    /// now, whether it can be used.
    async fn test(&self, session: &mut Session) -> Result<(), sqlx::Error> {
        let same_epoch = session.epoch == self.epoch();
        let connection = &mut session.connection;
        let testing = async {
            match same_epoch {
                true => connection.ping().await,
                false => connect::check(connection).await,
            }
        };
        let tested = timeout(TEST_LIMIT, testing).await;
        tested.unwrap_or_else(|_| Err(timed_out()))
    }

    /// Makes a connection, again and again while the server restarts.
    async fn connect(&self, deadline: Instant) -> Result<Session, sqlx::Error> {
        let (mut pause, longest) = RETRY_PAUSES;
        loop {
            let epoch = self.epoch();
            let left = deadline.saturating_duration_since(Instant::now());
            match self.0.connector.connect(left).await {
                Ok(connection) => {
                    return Ok(Session {
                        connection,
                        made: Instant::now(),
                        used: Instant::now(),
                        epoch,
                        cleanings: 0,
                    });
                }
                Err(error) if passes(&error) && Instant::now() + pause < deadline => {
                    tokio::time::sleep(pause).await;
                    pause = longest.min(pause * 2);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Closes connections that were idle for long.
    pub(super) fn reap(&self) {
        let is_old = |session: &Session| {
            session.used.elapsed() >= IDLE_LIMIT || session.made.elapsed() >= AGE_LIMIT
        };
        let old: Vec<Session> = self
            .idle()
            .extract_if(.., |session| is_old(session))
            .collect();
        for session in old {
            self.0.tasks.spawn(close(session));
        }
    }

    /// Refuses new callers, waits for connections in use and closes all.
    pub(super) async fn close(&self) {
        let all = self.0.limits.connections;
        let returned = self.0.free.acquire_many(all).await;
        self.0.free.close();
        drop(returned);
        let idle = std::mem::take(&mut *self.idle());
        for session in idle {
            close(session).await;
        }
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// From now on connections are tested before they are used again: the server has gone
    /// away, or another one has taken its place.
    pub(super) fn doubt(&self) {
        self.0.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether a call has met a full disk, until [`Pool::set_disk_full`] says otherwise.
    pub(super) fn disk_full(&self) -> bool {
        self.0.disk_full.load(Ordering::Acquire)
    }

    pub(super) fn set_disk_full(&self, full: bool) {
        self.0.disk_full.store(full, Ordering::Release);
    }

    fn lease(&self, session: Session, permit: OwnedSemaphorePermit) -> Lease {
        Lease {
            pool: self.clone(),
            session: Some((session, permit)),
            state: State::default(),
        }
    }

    fn put(&self, mut session: Session, permit: OwnedSemaphorePermit) {
        session.used = Instant::now();
        self.idle().push(session);
        // After the push: who gets the permit finds the connection.
        drop(permit);
    }

    fn is_fresh(&self, session: &Session) -> bool {
        session.epoch == self.epoch()
            && session.used.elapsed() < TEST_AFTER_IDLE
            && session.made.elapsed() < AGE_LIMIT
    }

    fn take_idle(&self) -> Option<Session> {
        self.idle().pop()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Session>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::Acquire)
    }
}

impl Lease {
    /// Runs one call on the connection, within the limit. Cancelled or failed, it leaves
    /// behind what the connection needs before it can be used again.
    pub(super) async fn call<T>(
        &mut self,
        call: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let limit = self.pool.0.limits.call;
        let Some((session, _)) = self.session.as_mut() else {
            return Err(sqlx::Error::PoolClosed);
        };
        self.state.busy = true;
        let answered = timeout(limit, call(&mut session.connection)).await;
        let result = answered.unwrap_or_else(|_| Err(timed_out()));
        self.state.busy = false;
        if let Err(error) = &result {
            self.failed(error);
        }
        result
    }

    fn failed(&mut self, error: &sqlx::Error) {
        if ends_session(error) {
            self.state.broken = true;
            self.pool.doubt();
        }
        if is_disk_full(error) {
            self.pool.set_disk_full(true);
        }
        // PostgreSQL answers the commit of a failed transaction with a rollback.
        self.state.aborted |= self.state.in_transaction;
    }

    /// Begins a transaction.
    pub(super) async fn begin(&mut self) -> Result<(), sqlx::Error> {
        // Before the call: cancelled in the middle it may have begun.
        self.state.in_transaction = true;
        self.simple("begin").await
    }

    /// Commits the transaction.
    pub(super) async fn commit(&mut self) -> Result<(), sqlx::Error> {
        if self.state.aborted {
            let message = "a statement of the transaction has failed: it cannot be committed";
            return Err(sqlx::Error::InvalidArgument(message.to_owned()));
        }
        self.simple("commit").await?;
        self.state.in_transaction = false;
        Ok(())
    }

    /// Rolls the transaction back.
    pub(super) async fn rollback(&mut self) -> Result<(), sqlx::Error> {
        self.simple("rollback").await?;
        self.state = State::default();
        Ok(())
    }

    async fn simple(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        let call = async |connection: &mut PgConnection| simple(connection, sql).await;
        self.call(call).await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some((session, permit)) = self.session.take() else {
            return;
        };
        let State {
            busy,
            in_transaction,
            broken,
            ..
        } = self.state;
        if broken {
            return;
        }
        if !busy && !in_transaction {
            self.pool.put(session, permit);
            return;
        }
        // Without a runtime, at the end of the process, it is closed by being dropped.
        if tokio::runtime::Handle::try_current().is_ok() {
            let cleaning = clean(self.pool.clone(), session, permit, in_transaction);
            self.pool.0.tasks.spawn(cleaning);
        }
    }
}

/// Reads the rest of an answer, ends a transaction, and gives the connection back.
async fn clean(
    pool: Pool,
    mut session: Session,
    permit: OwnedSemaphorePermit,
    in_transaction: bool,
) {
    session.cleanings += 1;
    let forget = session.cleanings.is_multiple_of(CLEANINGS_UNTIL_FORGET);
    let connection = &mut session.connection;
    let cleaning = async {
        match in_transaction {
            true => simple(connection, "rollback").await?,
            false => connection.ping().await?,
        }
        if forget {
            connection.clear_cached_statements().await?;
            simple(connection, "deallocate all").await?;
        }
        Ok::<(), sqlx::Error>(())
    };
    match timeout(CLEAN_LIMIT, cleaning).await {
        Ok(Ok(())) => pool.put(session, permit),
        // The connection is closed by being dropped, then its place is free.
        Ok(Err(_)) | Err(_) => drop((session, permit)),
    }
}

async fn simple(connection: &mut PgConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sql).execute(connection).await.map(|_| ())
}

async fn close(session: Session) {
    let _ = timeout(CLOSE_LIMIT, session.connection.close()).await;
}
