//! Log lines on their way to standard error.
//!
//! A reader that stalls blocks whoever writes. Therefore a line is written at once only
//! while standard error takes it without waiting. Else it goes into a queue, which a thread of
//! its own writes: bounded in bytes, and what does not fit is lost and counted.

use std::{
    io::{self, Write},
    mem,
    os::fd::AsFd as _,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, write},
};
use tracing_subscriber::fmt::MakeWriter;

use super::flood;

/// Most bytes of lines that wait: some 20 000 lines, a second or two of a flood.
const CAPACITY: usize = 4 * 1024 * 1024;

/// A pipe that is ready takes so much without blocking (PIPE_BUF, pipe(7)).
const AT_ONCE: usize = 4096;

/// Pause before a writer that is full for now is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// How often the thread looks whether lines of a flood were left out.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Where lines go in the end.
pub(super) trait Sink: Send + Sync {
    /// Whether it takes [`AT_ONCE`] bytes without blocking.
    fn is_ready(&self) -> bool;

    /// Writes some bytes, and may block.
    fn write(&self, bytes: &[u8]) -> io::Result<usize>;
}

/// Standard error, without the lock that the library puts around it.
#[derive(Clone, Copy, Debug)]
pub(super) struct StandardError;

impl Sink for StandardError {
    fn is_ready(&self) -> bool {
        let stderr = io::stderr();
        let mut polled = [PollFd::new(&stderr, PollFlags::OUT)];
        let now = Timespec::default();
        let [stderr] = match poll(&mut polled, Some(&now)) {
            Ok(_) => &polled,
            Err(_) => return false,
        };
        stderr.revents().contains(PollFlags::OUT)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        write(io::stderr().as_fd(), bytes).map_err(Errno::into)
    }
}

/// Where lines are put. Cheap to clone.
#[derive(Clone)]
pub(super) struct Queue(Arc<Shared>);

struct Shared {
    sink: Box<dyn Sink>,
    waiting: Mutex<Waiting>,
    added: Condvar,
    written: Condvar,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Whole lines, one after the other.
    bytes: Vec<u8>,
    /// How many lines that is.
    lines: u64,
    /// Whether the thread is writing what it took.
    writing: bool,
}

impl Queue {
    /// A queue with its thread.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(sink: impl Sink + 'static) -> io::Result<Self> {
        let queue = Self(Arc::new(Shared {
            sink: Box::new(sink),
            waiting: Mutex::default(),
            added: Condvar::new(),
            written: Condvar::new(),
            lost: AtomicU64::new(0),
        }));
        let shared = Arc::clone(&queue.0);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || shared.run())?;
        Ok(queue)
    }

    /// How many lines were lost since the start.
    pub(super) fn lost(&self) -> u64 {
        self.0.lost.load(Relaxed)
    }

    /// Waits until everything is written, for at most `bound`.
    pub(super) fn flush(&self, bound: Duration) {
        let waiting = self.0.lock();
        let unwritten = |waiting: &mut Waiting| waiting.writing || !waiting.bytes.is_empty();
        let _ = self.0.written.wait_timeout_while(waiting, bound, unwritten);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, mut line: &[u8]) {
        let mut waiting = self.lock();
        let idle = !waiting.writing && waiting.bytes.is_empty();
        if idle && line.len() <= AT_ONCE && self.sink.is_ready() {
            // What is left then goes by the thread, which sees an error too.
            let written = self.sink.write(line).unwrap_or_default();
            line = line.get(written..).unwrap_or_default();
            if line.is_empty() {
                return;
            }
        }
        if waiting.bytes.len() + line.len() > CAPACITY {
            drop(waiting);
            self.lost.fetch_add(1, Relaxed);
            return;
        }
        waiting.bytes.extend_from_slice(line);
        waiting.lines += 1;
        drop(waiting);
        self.added.notify_one();
    }

    fn run(&self) {
        let mut reported = 0;
        let mut taken = Waiting::default();
        loop {
            self.take(&mut taken);
            let written = write_all(self.sink.as_ref(), &taken.bytes);
            if written.is_err() {
                self.lost.fetch_add(taken.lines, Relaxed);
            }
            taken.bytes.clear();
            taken.bytes.shrink_to(CAPACITY / 16);
            self.lock().writing = false;
            self.written.notify_all();
            flood::report();
            let lost = self.lost.load(Relaxed);
            // Where nothing can be written, this line would be lost too, without end.
            if lost > reported && written.is_ok() {
                tracing::warn!(
                    lines = lost - reported,
                    "log lines were lost: standard error was not read in time"
                );
                reported = lost;
            }
        }
    }

    /// Takes what waits; nothing if nothing comes for a while.
    fn take(&self, taken: &mut Waiting) {
        let waiting = self.lock();
        let nothing = |waiting: &mut Waiting| waiting.bytes.is_empty();
        let waited = self.added.wait_timeout_while(waiting, LOOK_PAUSE, nothing);
        let (mut waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        mem::swap(&mut waiting.bytes, &mut taken.bytes);
        taken.lines = mem::take(&mut waiting.lines);
        waiting.writing = !taken.bytes.is_empty();
    }
}

/// Writes to the end, also where standard error is set not to block.
fn write_all(sink: &dyn Sink, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY_PAUSE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Takes one line, which the subscriber writes at once.
pub(super) struct Line<'a>(&'a Shared);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Queue").finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{atomic::AtomicBool, mpsc};

    use super::*;

    const BOUND: Duration = Duration::from_secs(10);

    /// A reader that reads on request, and passes on what it read.
    struct Slow {
        ready: Arc<AtomicBool>,
        turns: Mutex<mpsc::Receiver<()>>,
        read: mpsc::Sender<Vec<u8>>,
    }

    impl Sink for Slow {
        fn is_ready(&self) -> bool {
            self.ready.load(Relaxed)
        }

        fn write(&self, bytes: &[u8]) -> io::Result<usize> {
            if !self.is_ready() {
                let turn = self.turns.lock().unwrap().recv();
                turn.map_err(|_| io::ErrorKind::BrokenPipe)?;
            }
            self.read.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }
    }

    struct Reader {
        ready: Arc<AtomicBool>,
        turn: mpsc::Sender<()>,
        lines: mpsc::Receiver<Vec<u8>>,
    }

    fn slow() -> (Queue, Reader) {
        let ((turn, turns), (read, lines)) = (mpsc::channel(), mpsc::channel());
        let ready = Arc::new(AtomicBool::new(false));
        let sink = Slow {
            ready: Arc::clone(&ready),
            turns: Mutex::new(turns),
            read,
        };
        let reader = Reader { ready, turn, lines };
        (Queue::start(sink).unwrap(), reader)
    }

    fn put(queue: &Queue, line: &[u8]) {
        queue.make_writer().write_all(line).unwrap();
    }

    #[test]
    fn a_line_is_written_at_once_where_somebody_reads() {
        let (queue, reader) = slow();
        reader.ready.store(true, Relaxed);
        put(&queue, b"one\n");
        assert_eq!(reader.lines.try_recv().unwrap(), b"one\n");
    }

    #[test]
    fn lines_beyond_the_bound_are_lost_and_counted_while_nobody_reads() {
        let (queue, reader) = slow();
        let line = [b'x'; 1024];
        let most = CAPACITY / line.len();
        // What the thread took waits in the reader; it no longer counts.
        for _ in 0..3 * most {
            put(&queue, &line);
        }
        let lost = usize::try_from(queue.lost()).unwrap();
        assert!((most..=2 * most).contains(&lost), "{lost} of {}", 3 * most);
        let mut length = 0;
        while length < (3 * most - lost) * line.len() {
            reader.turn.send(()).unwrap();
            length += reader.lines.recv_timeout(BOUND).unwrap().len();
        }
        put(&queue, b"after\n");
        reader.turn.send(()).unwrap();
        assert_eq!(reader.lines.recv_timeout(BOUND).unwrap(), b"after\n");
    }

    #[test]
    fn a_flush_waits_for_what_was_written_and_not_for_ever() {
        let (queue, reader) = slow();
        put(&queue, b"one\n");
        queue.flush(Duration::from_millis(10));
        assert!(reader.lines.try_recv().is_err());
        reader.turn.send(()).unwrap();
        queue.flush(BOUND);
        assert_eq!(reader.lines.try_recv().unwrap(), b"one\n");
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let (queue, reader) = slow();
        drop(reader.turn);
        put(&queue, b"one\n");
        queue.flush(BOUND);
        assert_eq!(queue.lost(), 1);
    }
}
