//! Runs cases on the host: builds `kernels/*.cu` with the C++ compiler into a shared object, loads it, calls it.
//!
//! Every launch runs in three orders of the threads; the bits must not depend on it.

use std::ffi::{CStr, c_char, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use dtrain::ops::launch::Launch;
use libloading::{Library, Symbol};

use super::case::{Arg, Case, Step};

/// Ascending, descending, and one that is drawn at each turn.
pub const ORDERS: [u32; 3] = [0, 1, 2];

type Entry = unsafe extern "C" fn(*const u32, *const u32, u32, *mut *mut c_void, u32) -> *const c_char;

/// Kernels built for the host.
pub struct Host {
    library: Library,
    /// The file that was loaded.
    #[allow(dead_code)] // the GPU tests look at it
    pub object: PathBuf,
}

impl Host {
    /// All of `kernels/`.
    pub fn kernels() -> &'static Host {
        static HOST: OnceLock<Host> = OnceLock::new();
        HOST.get_or_init(|| {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
            let mut sources: Vec<PathBuf> = std::fs::read_dir(&root)
                .expect("the folder of the kernels")
                .map(|entry| entry.expect("an entry").path())
                .filter(|path| path.extension().is_some_and(|e| e == "cu"))
                .collect();
            sources.sort();
            Host::build("kernels", &sources)
        })
    }

    /// Of these sources; they may include what lies in `kernels/`.
    pub fn build(name: &str, sources: &[PathBuf]) -> Host {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
        let flags = [
            "-std=c++17",
            "-O2",
            "-fPIC",
            "-ffp-contract=off",
            "-fno-strict-aliasing",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-unknown-pragmas",
        ];
        let sources: Vec<PathBuf> = sources.iter().cloned().chain([root.join("host.cpp")]).collect();
        let mut everything: Vec<PathBuf> = std::fs::read_dir(&root)
            .expect("the folder of the kernels")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|e| e == "h"))
            .chain(sources.iter().cloned())
            .collect();
        everything.sort();
        let mut hasher = DefaultHasher::new();
        (&compiler, &flags).hash(&mut hasher);
        for path in &everything {
            std::fs::read(path).expect("a source").hash(&mut hasher);
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{:016x}", hasher.finish()));
        let object = folder.join("kernels.so");
        if !object.exists() {
            let work = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
            let compile = |source: &PathBuf| {
                let stem = source.file_stem().expect("a file name").to_string_lossy().into_owned();
                let to = work.path().join(stem + ".o");
                let mut command = Command::new(&compiler);
                command
                    .args(flags)
                    .arg("-I")
                    .arg(&root)
                    .args(["-x", "c++", "-c"])
                    .arg(source);
                run(command.arg("-o").arg(&to));
                to
            };
            let objects: Vec<PathBuf> = std::thread::scope(|scope| {
                let (even, odd): (Vec<_>, Vec<_>) = sources.iter().enumerate().partition(|(i, _)| i % 2 == 0);
                let halves = [even, odd]
                    .map(|half| scope.spawn(move || half.into_iter().map(|(_, s)| compile(s)).collect::<Vec<_>>()));
                halves
                    .into_iter()
                    .flat_map(|half| half.join().expect("a compiler run"))
                    .collect()
            });
            let linked = work.path().join("kernels.so");
            run(Command::new(&compiler)
                .arg("-shared")
                .args(&objects)
                .arg("-o")
                .arg(&linked));
            std::fs::create_dir_all(&folder).expect("a folder for the kernels");
            std::fs::rename(&linked, &object).expect("the kernels put in place");
        }
        // SAFETY: the object was built from our sources, which have no initialisers with side effects.
        let library = unsafe { Library::new(&object) }.expect("the kernels can be loaded");
        Host { library, object }
    }

    /// Runs the case in all orders and checks it.
    pub fn check(&self, case: &Case) {
        let mut first: Option<Vec<Vec<u8>>> = None;
        for order in ORDERS {
            let after = self
                .run(case, order)
                .unwrap_or_else(|what| panic!("{}: {what}", case.name));
            case.check(&after);
            match &first {
                None => first = Some(after),
                Some(first) => assert!(
                    *first == after,
                    "{}: the bits depend on the order of the threads: a barrier is missing",
                    case.name
                ),
            }
        }
    }

    /// What lies in the buffers, guards included, after all steps.
    pub fn run(&self, case: &Case, order: u32) -> Result<Vec<Vec<u8>>, String> {
        // u128 gives the alignment that device memory has.
        let mut memory: Vec<Vec<u128>> = Vec::new();
        for buffer in &case.buffers {
            let bytes = case.surrounded(buffer);
            let mut words = vec![0u128; bytes.len().div_ceil(16)];
            bytes_of(&mut words)[..bytes.len()].copy_from_slice(&bytes);
            memory.push(words);
        }
        for step in &case.steps {
            let mut pointers: Vec<u64> = step
                .args
                .iter()
                .map(|arg| match arg {
                    Arg::Buffer(index) | Arg::Within(index, _) => {
                        let buffer = &case.buffers[*index];
                        let within = if let Arg::Within(_, at) = arg {
                            at * buffer.format.bytes()
                        } else {
                            0
                        };
                        let bytes = bytes_of(&mut memory[*index]);
                        bytes[case.offset(buffer) + within..].as_mut_ptr() as u64
                    }
                    Arg::Null => 0,
                    Arg::U32(x) => *x as u64,
                    Arg::U64(x) => *x,
                    Arg::F32(x) => x.to_bits() as u64,
                    Arg::F64(x) => x.to_bits(),
                })
                .collect();
            self.call(step, &mut pointers, order)
                .map_err(|what| format!("{} in order {order}: {what}", step.kernel))?;
        }
        Ok(memory
            .iter_mut()
            .zip(&case.buffers)
            .map(|(words, buffer)| {
                let mut bytes = bytes_of(words).to_vec();
                bytes.truncate(case.surrounded(buffer).len());
                bytes
            })
            .collect())
    }

    /// `args` are the bits of the arguments, each in the low bytes of its word.
    fn call(&self, step: &Step, args: &mut [u64], order: u32) -> Result<(), String> {
        let Launch {
            grid,
            block,
            shared_bytes,
        } = step.launch;
        if step.launch.is_empty() {
            return Ok(());
        }
        let mut places: Vec<*mut c_void> = args.iter_mut().map(|arg| (arg as *mut u64).cast()).collect();
        let name = format!("{}_host\0", step.kernel);
        // SAFETY: EXPORT declares all entries with this type.
        let entry: Symbol<Entry> = unsafe { self.library.get(name.as_bytes()) }.map_err(|e| e.to_string())?;
        // SAFETY: the case names as many arguments, of such types, as the kernel has (little-endian words hold them in
        // their low bytes); buffers outlive the call, and what a kernel writes outside of them hits the guards.
        let error = unsafe { entry(grid.as_ptr(), block.as_ptr(), shared_bytes, places.as_mut_ptr(), order) };
        match error.is_null() {
            true => Ok(()),
            // SAFETY: the runtime's texts end with 0 and live until the next launch of this thread.
            false => Err(unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned()),
        }
    }
}

fn bytes_of(words: &mut [u128]) -> &mut [u8] {
    // SAFETY: any bytes are a u128 and the other way round; same memory, same length.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), std::mem::size_of_val(words)) }
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}; a C++17 compiler is needed (set CXX)"));
    assert!(
        output.status.success(),
        "{command:?}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
