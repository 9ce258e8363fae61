//! The host runtime itself: it catches the mistakes of `faulty.cu`, and its 16-bit formats are those of the `half` crate.

use std::path::Path;
use std::sync::OnceLock;

use dtrain::ops::launch::Launch;
use half::{bf16, f16};

use super::case::{Arg, Case, Format, GUARD, Tolerance};
use super::host::Host;

fn faulty() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/faulty.cu");
        Host::build("faulty", &[source])
    })
}

fn launch(blocks: u32) -> Launch {
    Launch {
        grid: [blocks, 1, 1],
        block: [64, 1, 1],
        shared_bytes: 128,
    }
}

/// A case whose kernel must write ones, or the numbers 63 to 0.
fn case(kernel: &str, blocks: u32) -> Case {
    let mut case = Case::new(kernel);
    let out = case.output(Format::F32, 64 * blocks as usize);
    let mut args = vec![out.clone()];
    if kernel == "writes_its_input" {
        args.push(case.input(Format::F32, [0.0; 64]));
    }
    case.step(kernel, launch(blocks), args);
    let reversed = kernel.ends_with("_barrier") && kernel != "divergent_barrier";
    let expected = (0..64 * blocks).map(|i| if reversed { 63.0 - i as f64 } else { 1.0 });
    case.expect(&out, expected, Tolerance::EXACT);
    case
}

/// What checking the case says.
fn verdict(kernel: &'static str, blocks: u32) -> String {
    let ended = std::thread::spawn(move || faulty().check(&case(kernel, blocks))).join();
    match ended {
        Ok(()) => "fine".into(),
        Err(what) => what.downcast_ref::<String>().cloned().expect("a text"),
    }
}

#[test]
fn mistakes_are_caught() {
    assert_eq!(verdict("with_barrier", 1), "fine");
    for (kernel, blocks, what) in [
        ("no_barrier", 1, "expected 6.3e1"),
        ("divergent_barrier", 1, "not all threads of the block reach"),
        ("divergent_shuffle", 1, "not all lanes reach"),
        ("shared_overrun", 1, "behind its end"),
        ("behind_the_end", 1, "buffer 0 was written behind its end"),
        ("writes_its_input", 1, "only to be read"),
        ("stale_shared", 2, "NaN"),
    ] {
        let said = verdict(kernel, blocks);
        assert!(said.contains(what), "{kernel}: {said}");
    }
}

#[test]
fn sixteen_bit_formats_are_exact() {
    // All 16-bit numbers; of the 32-bit ones every 65,521st (a prime step), from four starts.
    for from in [0, 0x3300_0001, 0x4780_0001, 0x3f80_7fff] {
        let step = 65_521;
        let mut case = Case::new(format!("formats from {from:x}"));
        let outputs = [4, 4, 2, 2].map(|bytes| match bytes {
            4 => case.output(Format::F32, 65_536),
            _ => case.output(Format::F16, 65_536),
        });
        let mut args = outputs.to_vec();
        args.extend([Arg::U32(from), Arg::U32(step)]);
        case.step("formats", launch(1024), args);
        let after = faulty().run(&case, 0).unwrap();
        let word =
            |buffer: usize, i: usize| u32::from_le_bytes(after[buffer][GUARD + 4 * i..][..4].try_into().unwrap());
        let short =
            |buffer: usize, i: usize| u16::from_le_bytes(after[buffer][GUARD + 2 * i..][..2].try_into().unwrap());
        for i in 0..65_536 {
            let (h, b) = (f16::from_bits(i as u16), bf16::from_bits(i as u16));
            let same = |bits: u32, x: f32| bits == x.to_bits() || (x.is_nan() && f32::from_bits(bits).is_nan());
            assert!(same(word(0, i), h.to_f32()), "f16 {i:x}");
            assert!(same(word(1, i), b.to_f32()), "bf16 {i:x}");
            let x = f32::from_bits(from.wrapping_add(i as u32 * step));
            if x.is_nan() {
                assert_eq!((short(2, i), short(3, i)), (0x7fff, 0x7fff), "as the hardware has NaN");
            } else {
                assert_eq!(short(2, i), f16::from_f32(x).to_bits(), "{x:e} as f16");
                assert_eq!(short(3, i), bf16::from_f32(x).to_bits(), "{x:e} as bf16");
            }
        }
    }
}
