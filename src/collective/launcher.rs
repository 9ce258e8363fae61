//! Who started this process, and as one of how many: read off the environment that launchers leave.
//!
//! Under MPI the communicator is the truth; the environment only says whether to look for one, and is held against it.

use crate::error::{Error, Result};

/// What the environment says about the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launcher {
    /// For messages: `mpirun (Open MPI)`.
    pub name: &'static str,
    /// Number of processes in the job, at least 1.
    pub world: usize,
    /// For who speaks before the communicator is up; 0 where the number cannot be read.
    pub rank: usize,
}

impl Launcher {
    /// `None`: nobody but a shell.
    pub fn of_this_process() -> Result<Option<Launcher>> {
        Launcher::from_environment(|name| std::env::var(name).ok())
    }

    /// The same over any environment. Errors: a count that is no positive number.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Launcher>> {
        // A batch script's own shell carries SLURM_NTASKS too; only a task of a step has SLURM_STEP_NUM_TASKS.
        let known = [
            ("mpirun (Open MPI)", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
            ("mpirun (PMI: MPICH, Intel MPI or srun)", "PMI_SIZE", "PMI_RANK"),
            ("srun (Slurm)", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
            ("torchrun", "WORLD_SIZE", "RANK"),
        ];
        for (name, size, rank) in known {
            let (Some(size_text), Some(rank_text)) = (variable(size), variable(rank)) else {
                continue;
            };
            let world = size_text.trim().parse().ok().filter(|&world| world > 0);
            return match world {
                Some(world) => Ok(Some(Launcher {
                    name,
                    world,
                    rank: rank_text.trim().parse().unwrap_or(0),
                })),
                None => Err(Error::Ranks {
                    what: format!("the environment says {size}={size_text}, which is no number of processes"),
                    fix: format!("unset {size}, or start the job with mpirun"),
                }),
            };
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launcher(environment: &[(&str, &str)]) -> Result<Option<Launcher>> {
        Launcher::from_environment(|name| environment.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
    }

    #[test]
    fn each_launcher_is_known_by_its_own_variables() {
        for (size, rank) in [
            ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
            ("PMI_SIZE", "PMI_RANK"),
            ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
            ("WORLD_SIZE", "RANK"),
        ] {
            let found = launcher(&[(size, "4"), (rank, "3")]).unwrap().unwrap();
            assert_eq!((found.world, found.rank), (4, 3), "{size}");
        }
    }

    #[test]
    fn a_shell_inside_a_slurm_allocation_is_no_rank() {
        assert_eq!(launcher(&[("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0")]).unwrap(), None);
        assert_eq!(launcher(&[]).unwrap(), None);
    }

    #[test]
    fn nonsense_is_an_error_that_names_the_variable() {
        for count in ["0", "-1", "four", ""] {
            let error = launcher(&[("PMI_SIZE", count), ("PMI_RANK", "0")]).unwrap_err();
            assert!(error.to_string().contains("PMI_SIZE"), "{error}");
        }
    }
}
