//! MPI: one process per rank, started by mpirun or srun.
//!
//! The `mpi` crate initialises, finds the ranks and finalizes; the two reductions go to the C functions directly, because
//! the crate has no reduction in place. `MPI_Finalize` waits for the other ranks, so it is reached on the orderly path
//! only: a rank that fails calls `abort`.

use std::ffi::c_void;
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::environment::Universe;
use mpi::ffi;
use mpi::traits::{AsRaw, Communicator, Root, Source};

use super::{Collective, Launcher, LocalRank};
use crate::error::{Error, Result};

/// The world communicator of this job.
pub struct Mpi {
    rank: usize,
    world: usize,
    local: LocalRank,
    in_place: Option<InPlace>,
    /// One call at a time: the ranks' order of calls is the contract, and a library may offer no more than
    /// MPI_THREAD_SERIALIZED. `None` once it is finalized.
    universe: Mutex<Option<Universe>>,
}

/// The library's address for "the operand is where the result goes"; `mpi-sys` does not export the macro.
#[derive(Clone, Copy)]
struct InPlace(usize);

/// Elements of one call: the count is a C int.
const CHUNK: usize = 1 << 30;

/// Tag of the message that a rank has given up waiting.
const GIVEN_UP: i32 = 7;

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
        Ok(Mpi {
            rank,
            world,
            local,
            in_place: InPlace::of(&library),
            universe: Mutex::new(Some(universe)),
        })
    }

    fn sum<T: Copy>(&self, values: &mut [T], datatype: ffi::MPI_Datatype) -> Result<()> {
        let universe = self.universe();
        let Some(universe) = universe.as_ref() else {
            return Err(refused("MPI_Allreduce", 0));
        };
        let communicator = universe.world().as_raw();
        for chunk in values.chunks_mut(CHUNK) {
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
            let code = unsafe {
                ffi::MPI_Allreduce(
                    operand,
                    chunk.as_mut_ptr().cast(),
                    chunk.len() as i32,
                    datatype,
                    ffi::RSMPI_SUM,
                    communicator,
                )
            };
            if code != 0 {
                return Err(refused("MPI_Allreduce", code));
            }
        }
        Ok(())
    }

    /// A rank whose message that it has given up is here.
    fn heard(&self) -> Option<usize> {
        let universe = self.universe();
        let status = universe
            .as_ref()?
            .world()
            .any_process()
            .immediate_probe_with_tag(GIVEN_UP)?;
        Some(status.source_rank() as usize)
    }

    /// Takes the message of a rank that was [heard](Mpi::heard).
    fn listen_to(&self, rank: usize) {
        if let Some(universe) = self.universe().as_ref() {
            let _: (u8, _) = universe.world().process_at_rank(rank as i32).receive_with_tag(GIVEN_UP);
        }
    }

    fn say_to(&self, rank: usize) {
        static NOTHING: u8 = 0;
        let universe = self.universe();
        let Some(universe) = universe.as_ref() else { return };
        // SAFETY: one byte that is never freed; MPI completes the request by itself after it is let go of.
        unsafe {
            let mut request = ffi::RSMPI_REQUEST_NULL;
            let communicator = universe.world().as_raw();
            ffi::MPI_Isend(
                (&raw const NOTHING).cast(),
                1,
                ffi::RSMPI_UINT8_T,
                rank as i32,
                GIVEN_UP,
                communicator,
                &mut request,
            );
            ffi::MPI_Request_free(&mut request);
        }
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
        let communicator = universe.world();
        for chunk in bytes.chunks_mut(CHUNK) {
            communicator.process_at_rank(root as i32).broadcast_into(chunk);
        }
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        self.sum_f64(&mut [0.0])
    }

    fn given_up(&self) -> bool {
        self.heard().is_some()
    }

    fn silent_ranks(&self, patience: Duration) -> Vec<usize> {
        for rank in (0..self.world).filter(|rank| *rank != self.rank) {
            self.say_to(rank);
        }
        let mut silent: Vec<usize> = (0..self.world).filter(|rank| *rank != self.rank).collect();
        let begun = Instant::now();
        while !silent.is_empty() && begun.elapsed() < patience {
            match self.heard() {
                Some(rank) => {
                    self.listen_to(rank);
                    silent.retain(|other| *other != rank);
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        silent
    }

    fn abort(&self, code: i32) -> ! {
        let _ = std::io::stdout().flush();
        let _ = std::io::stderr().flush();
        // SAFETY: MPI is initialised as long as `self` lives. No lock is taken: another thread may be held inside a
        // collective call that never returns, and ending that is what this call is for.
        unsafe { ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, code) };
        std::process::abort()
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

fn refused(call: &str, code: i32) -> Error {
    Error::Ranks {
        what: format!("{call} failed with code {code}"),
        fix: "look for the first failing rank in the output above".into(),
    }
}
