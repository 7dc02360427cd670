//! The pool of connections to the metadata database.
//!
//! sqlx has a pool of its own. But it connects inside the caller's future, pings each connection
//! that comes back, and sets no limit on either. Callers with short deadlines can starve it, and
//! a host that goes silent blocks it for ever. This pool connects, tests and cleans in tasks of
//! its own, each with a limit. A caller that goes away in the middle costs at most one round
//! trip.

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

/// A connection that was idle for longer is tested before its next use.
const TEST_AFTER_IDLE: Duration = Duration::from_secs(1);

/// Longest wait for the result of a test.
const TEST_LIMIT: Duration = Duration::from_secs(2);

/// Longest time to clean a connection that was left in the middle of a call.
const CLEAN_LIMIT: Duration = Duration::from_secs(2);

/// Number of cleanings after which a connection forgets all prepared statements. A call that is
/// cancelled while it prepares a statement leaves that statement on the server, unknown here.
const CLEANINGS_UNTIL_FORGET: u32 = 64;

/// Longest wait for a connection to close.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// A connection that was idle for longer is closed, because the peak that needed it is over.
const IDLE_LIMIT: Duration = Duration::from_secs(600);

/// An older connection is closed, because its server process may hold memory of large queries.
const AGE_LIMIT: Duration = Duration::from_secs(1800);

/// First and longest pause between two attempts to connect.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// Limits of the pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Most connections at once.
    pub(super) connections: u32,
    /// Longest wait for a connection.
    pub(super) acquire: Duration,
    /// Longest wait for the answer to a call. Then the connection is closed.
    pub(super) call: Duration,
}

/// A pool of equal connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connector: Connector,
    limits: Limits,
    /// One permit for each connection that may be in use. The semaphore is fair.
    free: Arc<Semaphore>,
    /// Idle connections. The one that was used last is taken first.
    idle: Mutex<Vec<Session>>,
    /// Raised when a call shows that the server was replaced or is gone. A connection of an
    /// older epoch is tested before its next use.
    epoch: AtomicU64,
    /// Whether a call has met a full disk since the probe last found space.
    disk_full: AtomicBool,
    /// Number of callers that wait for a connection.
    waiting: AtomicU64,
    /// The pool's own tasks, which no caller waits for.
    tasks: TaskTracker,
}

/// Counts a waiting caller until it is dropped.
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

/// A connection and its history.
#[derive(Debug)]
struct Session {
    connection: PgConnection,
    made: Instant,
    used: Instant,
    epoch: u64,
    /// How often a caller has left it in the middle of a call.
    cleanings: u32,
}

impl Session {
    fn is_old(&self) -> bool {
        self.used.elapsed() >= IDLE_LIMIT || self.made.elapsed() >= AGE_LIMIT
    }
}

/// A connection in use by one caller. When dropped it returns to the pool: directly if it is
/// idle, after a cleaning if it is in the middle of a call or a transaction.
#[derive(Debug)]
pub(crate) struct Lease {
    pool: Pool,
    /// None only while it is being dropped.
    session: Option<(Session, OwnedSemaphorePermit)>,
    state: State,
}

/// State of a connection in use.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// A call was sent, and its answer was not read to the end.
    busy: bool,
    /// A transaction has begun, and was neither committed nor rolled back.
    in_transaction: bool,
    /// A statement of the transaction has failed, so it can only be rolled back.
    aborted: bool,
    /// The connection cannot be used again.
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

    /// Numbers of connections and of waiting callers.
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

    /// Tracks work that continues without a caller. The close of the pool waits for it.
    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    /// Longest time of a call, including the wait for a connection.
    pub(super) fn longest_call(&self) -> Duration {
        self.0.limits.acquire + self.0.limits.call
    }

    /// Acquires a connection within the limit. If the caller goes away, its connection is still
    /// made or tested, for the next caller.
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

    /// Tests or makes a connection in a task of the pool, which has a limit of its own. A caller
    /// that has queued for long has little time left. If that were the limit, no connection
    /// would ever be made while callers queue.
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
            // If the caller has gone, the lease is dropped here, and its connection becomes idle.
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
                // Connections that were used even earlier are dead too. Testing each would take
                // seconds.
                self.idle().retain(|other| other.used > session.used);
                break;
            }
            idle = self.take_idle();
        }
        self.connect(limit).await
    }

    /// Checks that a connection is alive. If the server may have been replaced, also checks that
    /// Howdah can work with it.
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

    /// Connects. Retries while the server restarts.
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

    /// Closes connections that have been idle for long.
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

    /// Refuses new callers, waits for the connections in use, and closes all of them.
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

    /// Makes all connections be tested before their next use, because the server is gone or was
    /// replaced.
    pub(super) fn doubt(&self) {
        self.0.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether a call has met a full disk, until [`Pool::set_disk_full`] resets it.
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
        // After the push, so that the caller who gets the permit finds the connection.
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
    /// Runs one call on the connection, within the limit. If the call fails or is cancelled, the
    /// state says what the connection needs before its next use.
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
        // PostgreSQL answers COMMIT in a failed transaction with a rollback, without an error.
        self.state.aborted |= self.state.in_transaction;
    }

    /// Begins a transaction.
    pub(super) async fn begin(&mut self) -> Result<(), sqlx::Error> {
        // Set before the call: if it is cancelled, the transaction may have begun nevertheless.
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
        // At the end of the process there is no runtime. Dropping the connection closes it.
        if tokio::runtime::Handle::try_current().is_ok() {
            let cleaning = clean(self.pool.clone(), session, permit, in_transaction);
            self.pool.0.tasks.spawn(cleaning);
        }
    }
}

/// Reads the rest of an answer, rolls a transaction back, and returns the connection to the
/// pool.
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
        // Dropping the connection closes it; then its permit is free.
        Ok(Err(_)) | Err(_) => drop((session, permit)),
    }
}

async fn simple(connection: &mut PgConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sql).execute(connection).await.map(|_| ())
}

async fn close(session: Session) {
    let _ = timeout(CLOSE_LIMIT, session.connection.close()).await;
}
