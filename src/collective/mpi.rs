//! MPI: one process per rank, started by mpirun or srun.
//!
//! The `mpi` crate initialises, finds the ranks and finalizes; the two reductions go to the C functions directly, because
//! the crate has no reduction in place. `MPI_Finalize` waits for the other ranks, so it is reached on the orderly path
//! only: a rank that fails calls `abort`.
//!
//! A blocking call waits for ever for a rank that hangs. So the ranks first meet in a barrier that does not block
//! (MPI_Ibarrier, some microseconds), where a rank that waits too long finds out who is missing; `Watch` is for a rank
//! that freezes after that. (MPI_Iallreduce instead was 2.5 times slower than MPI_Allreduce with Open MPI 4.1.)

use std::ffi::c_void;
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::environment::Universe;
use mpi::ffi;
use mpi::traits::{AsRaw, Communicator, Root};

use super::job::last_words;
use super::roll_call::{call_out, heard};
use super::waiting::{self, Waiting};
use super::watch::Watch;
use super::{Collective, Launcher, LocalRank, gather, host};
use crate::error::{Error, Result};

/// The world communicator of this job.
pub struct Mpi {
    rank: usize,
    world: usize,
    local: LocalRank,
    /// Of every rank, by rank; the watch reads them, too.
    hosts: Arc<OnceLock<Vec<String>>>,
    in_place: Option<InPlace>,
    watch: Watch,
    /// One call at a time: the ranks' order of calls is the contract, and a library may offer no more than
    /// MPI_THREAD_SERIALIZED. `None` once it is finalized.
    universe: Mutex<Option<Universe>>,
}

/// The library's address for "the operand is where the result goes"; `mpi-sys` does not export the macro.
#[derive(Clone, Copy)]
struct InPlace(usize);

/// Elements of one call: the count is a C int.
const CHUNK: usize = 1 << 30;

/// Bytes of one sum among ranks of a node, so that what one of them writes is still in the cache that they share when another
/// reads it: 86 M floats take two ranks 79 ms so, and 196 ms in one call (Open MPI 4.1, 32 MB of cache).
const PIECE: usize = 1 << 20;

impl Mpi {
    /// Initialises MPI, which must not have been done before in this process, and holds its world against the launcher's.
    pub fn join(launcher: &Launcher) -> Result<Mpi> {
        let (universe, threading) =
            mpi::initialize_with_threading(Threading::Multiple).ok_or_else(|| Error::Ranks {
                what: "MPI is already initialised in this process".into(),
                fix: "join the job once".into(),
            })?;
        let library = mpi::environment::library_version().unwrap_or_default();
        let library = library
            .lines()
            .next()
            .unwrap_or_default()
            .trim_end_matches('\0')
            .to_string();
        let communicator = universe.world();
        let (rank, world) = (communicator.rank() as usize, communicator.size() as usize);
        if world != launcher.world {
            // Not finalized: the processes do not know each other, there is nobody to wait for.
            std::mem::forget(universe);
            return Err(Error::Ranks {
                what: format!(
                    "{} started {} processes, but the MPI library of this program ({library}) sees {world}",
                    launcher.name, launcher.world
                ),
                fix: "start it with the mpirun of that library (under Slurm: `srun --mpi=pmix`)".into(),
            });
        }
        if threading < Threading::Serialized {
            return Err(Error::Ranks {
                what: format!("the MPI library ({library}) offers no calls from several threads ({threading:?})"),
                fix: "use an MPI library with MPI_THREAD_SERIALIZED or better".into(),
            });
        }
        let node = communicator.split_shared(rank as i32);
        let local = LocalRank {
            rank: node.rank() as usize,
            world: node.size() as usize,
        };
        let hosts = Arc::new(OnceLock::new());
        let known_hosts = hosts.clone();
        let joined = Mpi {
            rank,
            world,
            local,
            hosts,
            in_place: InPlace::of(&library),
            watch: Watch::begin(move |call, waited| {
                let silent = match threading {
                    Threading::Multiple => call_out(rank, world, waiting::PATIENCE),
                    // Nobody else may call MPI while a call is under way.
                    _ => Vec::new(),
                };
                abort(last_words(
                    rank,
                    world,
                    &waiting::absent(call, waited, &silent, names(&known_hosts)),
                ))
            }),
            universe: Mutex::new(Some(universe)),
        };
        let hosts = gather(&joined, host().as_bytes())?;
        let hosts = hosts.iter().map(|host| String::from_utf8_lossy(host).into_owned());
        let _ = joined.hosts.set(hosts.collect());
        Ok(joined)
    }

    /// Returns when every rank is here. Errors: some rank did not come in time, by its name.
    fn meet(&self, universe: &Universe, what: &str) -> Result<()> {
        // SAFETY: a barrier has no buffers, and `request` is completed below or, if that takes too long, leaked with the job.
        let mut request = unsafe { ffi::RSMPI_REQUEST_NULL };
        // SAFETY: as above; the communicator is the world's, alive as long as the universe.
        let code = unsafe { ffi::MPI_Ibarrier(universe.world().as_raw(), &mut request) };
        if code != 0 {
            return Err(refused("MPI_Ibarrier", code));
        }
        let mut waiting = Waiting::begin(Instant::now());
        loop {
            let mut everybody_is_here = 0;
            let mut status = std::mem::MaybeUninit::uninit();
            // SAFETY: the request is of the call above and not yet completed; both results are written.
            let code = unsafe { ffi::MPI_Test(&mut request, &mut everybody_is_here, status.as_mut_ptr()) };
            if code != 0 {
                return Err(refused("MPI_Test", code));
            }
            if everybody_is_here != 0 {
                return Ok(());
            }
            let now = Instant::now();
            let asked = waiting.looks_around(now) && heard().is_some();
            if asked || waiting.is_over(now) {
                let silent = call_out(self.rank, self.world, waiting::PATIENCE);
                return Err(waiting::absent(what, waiting.since(now), &silent, names(&self.hosts)));
            }
            waiting.pause();
        }
    }

    fn sum<T: Copy>(&self, values: &mut [T], datatype: ffi::MPI_Datatype) -> Result<()> {
        let universe = self.universe();
        let Some(universe) = universe.as_ref() else {
            return Err(refused("MPI_Allreduce", 0));
        };
        self.meet(universe, "a sum over all ranks")?;
        let communicator = universe.world().as_raw();
        let near = self.local.world == self.world;
        let length = if near { PIECE / size_of::<T>() } else { CHUNK };
        for chunk in values.chunks_mut(length) {
            let spare;
            let operand = match self.in_place {
                Some(InPlace(address)) => address as *const c_void,
                None => {
                    spare = chunk.to_vec();
                    spare.as_ptr().cast()
                }
            };
            // SAFETY: `chunk` holds `chunk.len()` ≤ 2^30 initialised elements of `datatype`, is borrowed mutably until the
            // call returns, and `operand` is either the library's marker or a buffer of the same length that outlives it.
            let code = self.watch.over("a sum over all ranks", || unsafe {
                ffi::MPI_Allreduce(
                    operand,
                    chunk.as_mut_ptr().cast(),
                    chunk.len() as i32,
                    datatype,
                    ffi::RSMPI_SUM,
                    communicator,
                )
            });
            if code != 0 {
                return Err(refused("MPI_Allreduce", code));
            }
        }
        Ok(())
    }

    fn universe(&self) -> std::sync::MutexGuard<'_, Option<Universe>> {
        // A panic elsewhere ends the job by itself; the value is whole in any case.
        self.universe.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn local(&self) -> LocalRank {
        self.local
    }

    fn sum_f32(&self, values: &mut [f32]) -> Result<()> {
        // SAFETY: a constant of the MPI library, readable once it is initialised.
        self.sum(values, unsafe { ffi::RSMPI_FLOAT })
    }

    fn sum_f64(&self, values: &mut [f64]) -> Result<()> {
        // SAFETY: as above.
        self.sum(values, unsafe { ffi::RSMPI_DOUBLE })
    }

    fn broadcast(&self, bytes: &mut [u8], root: usize) -> Result<()> {
        let universe = self.universe();
        let Some(universe) = universe.as_ref() else {
            return Err(refused("MPI_Bcast", 0));
        };
        self.meet(universe, "a broadcast to all ranks")?;
        let communicator = universe.world();
        for chunk in bytes.chunks_mut(CHUNK) {
            self.watch.over("a broadcast to all ranks", || {
                communicator.process_at_rank(root as i32).broadcast_into(chunk)
            });
        }
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        match self.universe().as_ref() {
            Some(universe) => self.meet(universe, "a meeting of all ranks"),
            None => Err(refused("MPI_Ibarrier", 0)),
        }
    }

    fn given_up(&self) -> bool {
        self.universe().is_some() && heard().is_some()
    }

    fn silent_ranks(&self, patience: Duration) -> Vec<usize> {
        match *self.universe() {
            Some(_) => call_out(self.rank, self.world, patience),
            None => Vec::new(),
        }
    }

    fn abort(&self, code: i32) -> ! {
        abort(code)
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.abort(101);
        }
        // Dropping the universe calls MPI_Finalize.
        self.universe().take();
    }
}

impl InPlace {
    /// Open MPI writes `(void *) 1`; MPICH and its descendants `(void *) -1`. Of others two buffers are asked.
    fn of(library: &str) -> Option<InPlace> {
        if library.contains("Open MPI") {
            Some(InPlace(1))
        } else if ["MPICH", "Intel(R) MPI", "MVAPICH"]
            .iter()
            .any(|name| library.contains(name))
        {
            Some(InPlace(usize::MAX))
        } else {
            None
        }
    }
}

fn names(hosts: &OnceLock<Vec<String>>) -> &[String] {
    hosts.get().map_or(&[], Vec::as_slice)
}

/// Ends every rank of the job.
fn abort(code: i32) -> ! {
    let _ = std::io::stdout().flush();
    let _ = std::io::stderr().flush();
    // SAFETY: MPI is initialised as long as there is an `Mpi`. No lock is taken: another thread may be held inside a
    // collective call that never returns, and ending that is what this call is for.
    unsafe { ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, code) };
    std::process::abort()
}

fn refused(call: &str, code: i32) -> Error {
    Error::Ranks {
        what: format!("{call} failed with code {code}"),
        fix: "look for the first failing rank in the output above".into(),
    }
}
