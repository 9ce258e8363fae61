//! One case of the kernels' table: buffers, launches over them, and what must lie in the buffers afterwards.
//!
//! A case knows nothing of who runs it. Every buffer lies between guards of 0xff bytes, which are NaN to a kernel that reads
//! them and a change of which is a failure; buffers that are only read must not change; outputs start as a pattern.

use dtrain::ops::launch::Launch;
use half::{bf16, f16};

/// Guard bytes on each side of a buffer.
pub const GUARD: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code)] // the vocabulary of kernels that are yet to come
pub enum Format {
    F32,
    F16,
    Bf16,
    F64,
    U8,
    U32,
    U64,
}

impl Format {
    /// The formats that kernels come in.
    pub const REAL: [Format; 3] = [Format::F32, Format::F16, Format::Bf16];

    pub fn suffix(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
            _ => unreachable!("no kernel is made for {self:?}"),
        }
    }

    pub fn bytes(self) -> usize {
        match self {
            Format::U8 => 1,
            Format::F16 | Format::Bf16 => 2,
            Format::F32 | Format::U32 => 4,
            Format::F64 | Format::U64 => 8,
        }
    }

    /// Relative error of one rounding.
    pub fn epsilon(self) -> f64 {
        match self {
            Format::F32 => 2f64.powi(-24),
            Format::F16 => 2f64.powi(-11),
            Format::Bf16 => 2f64.powi(-8),
            Format::F64 => 2f64.powi(-53),
            _ => 0.0,
        }
    }

    /// What storing in this format makes of a value.
    pub fn rounded(self, x: f32) -> f32 {
        match self {
            Format::F16 => f16::from_f32(x).to_f32(),
            Format::Bf16 => bf16::from_f32(x).to_f32(),
            _ => x,
        }
    }

    fn encode(self, x: f64, to: &mut Vec<u8>) {
        match self {
            Format::F32 => to.extend((x as f32).to_le_bytes()),
            Format::F16 => to.extend(f16::from_f32(x as f32).to_le_bytes()),
            Format::Bf16 => to.extend(bf16::from_f32(x as f32).to_le_bytes()),
            Format::F64 => to.extend(x.to_le_bytes()),
            Format::U8 => to.push(x as u8),
            Format::U32 => to.extend((x as u32).to_le_bytes()),
            Format::U64 => to.extend((x as u64).to_le_bytes()),
        }
    }

    fn decode(self, b: &[u8]) -> f64 {
        match self {
            Format::F32 => f32::from_le_bytes(b.try_into().unwrap()) as f64,
            Format::F16 => f16::from_le_bytes(b.try_into().unwrap()).to_f64(),
            Format::Bf16 => bf16::from_le_bytes(b.try_into().unwrap()).to_f64(),
            Format::F64 => f64::from_le_bytes(b.try_into().unwrap()),
            Format::U8 => b[0] as f64,
            Format::U32 => u32::from_le_bytes(b.try_into().unwrap()) as f64,
            Format::U64 => u64::from_le_bytes(b.try_into().unwrap()) as f64,
        }
    }
}

/// |actual - expected| must be at most absolute + relative·|expected|.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub absolute: f64,
    pub relative: f64,
}

impl Tolerance {
    pub const EXACT: Tolerance = Tolerance {
        absolute: 0.0,
        relative: 0.0,
    };

    /// `absolute` for the arithmetic, and one rounding to the format on top.
    pub fn arithmetic(absolute: f64, format: Format) -> Tolerance {
        Tolerance {
            absolute,
            relative: 1.01 * format.epsilon(),
        }
    }
}

#[derive(Clone, Debug)]
#[allow(dead_code)]
pub enum Arg {
    Buffer(usize),
    /// The buffer from this element on.
    Within(usize, usize),
    Null,
    U32(u32),
    U64(u64),
    F32(f32),
    F64(f64),
}

#[derive(Clone, Debug)]
pub struct Step {
    pub kernel: String,
    pub launch: Launch,
    pub args: Vec<Arg>,
}

#[derive(Clone, Debug)]
pub struct Buffer {
    pub format: Format,
    /// Without guards.
    pub bytes: Vec<u8>,
    expected: Option<(Vec<f64>, Tolerance)>,
    may_change: bool,
}

#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub buffers: Vec<Buffer>,
    pub steps: Vec<Step>,
    /// Elements by which every buffer misses 16-byte alignment.
    pub shift: usize,
}

impl Case {
    pub fn new(name: impl Into<String>) -> Case {
        Case {
            name: name.into(),
            buffers: Vec::new(),
            steps: Vec::new(),
            shift: 0,
        }
    }

    /// A buffer that kernels only read.
    pub fn input(&mut self, format: Format, values: impl IntoIterator<Item = impl Into<f64>>) -> Arg {
        let mut bytes = Vec::new();
        values.into_iter().for_each(|x| format.encode(x.into(), &mut bytes));
        self.push(format, bytes, false)
    }

    /// As [`Case::input`], of whole numbers that do not fit f64.
    pub fn input_u64(&mut self, values: &[u64]) -> Arg {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.push(Format::U64, bytes, false)
    }

    /// A buffer that kernels read and write; see [`Case::expect`].
    pub fn state(&mut self, format: Format, values: impl IntoIterator<Item = impl Into<f64>>) -> Arg {
        let arg = self.input(format, values);
        self.of(&arg).may_change = true;
        arg
    }

    /// A buffer of `count` values that kernels write.
    pub fn output(&mut self, format: Format, count: usize) -> Arg {
        self.push(format, vec![0xa5; count * format.bytes()], true)
    }

    /// What must lie in a buffer at the end. A buffer that may change and of which nothing is expected is scratch.
    pub fn expect(&mut self, arg: &Arg, values: impl IntoIterator<Item = impl Into<f64>>, tolerance: Tolerance) {
        let values: Vec<f64> = values.into_iter().map(Into::into).collect();
        let name = self.name.clone();
        let buffer = self.of(arg);
        assert_eq!(
            values.len(),
            buffer.bytes.len() / buffer.format.bytes(),
            "{name}: values expected"
        );
        buffer.expected = Some((values, tolerance));
    }

    pub fn step(&mut self, kernel: impl Into<String>, launch: Launch, args: Vec<Arg>) {
        self.steps.push(Step {
            kernel: kernel.into(),
            launch,
            args,
        });
    }

    /// The same case with every buffer off alignment by one element.
    pub fn misaligned(mut self) -> Case {
        self.name += " misaligned";
        self.shift = 1;
        self
    }

    /// Panics if what a run left in the buffers (and around them) is not as it must be.
    pub fn check(&self, after: &[Vec<u8>]) {
        for (index, (buffer, after)) in self.buffers.iter().zip(after).enumerate() {
            let (guard, inner) = after.split_at(self.offset(buffer));
            let (inner, behind) = inner.split_at(buffer.bytes.len());
            let place = format!("{}: buffer {index}", self.name);
            assert!(guard.iter().all(|b| *b == 0xff), "{place} was written before its start");
            assert!(behind.iter().all(|b| *b == 0xff), "{place} was written behind its end");
            assert!(
                buffer.may_change || inner == buffer.bytes,
                "{place} is only to be read and was written"
            );
            if let Some((expected, tolerance)) = &buffer.expected {
                compare(&place, buffer.format, inner, expected, *tolerance);
            }
        }
    }

    /// A buffer with its guards, as a run starts.
    pub fn surrounded(&self, buffer: &Buffer) -> Vec<u8> {
        let mut bytes = vec![0xff; self.offset(buffer)];
        bytes.extend(&buffer.bytes);
        bytes.extend([0xff; GUARD]);
        bytes
    }

    /// Bytes before a buffer's first element.
    pub fn offset(&self, buffer: &Buffer) -> usize {
        GUARD + self.shift * buffer.format.bytes()
    }

    fn push(&mut self, format: Format, bytes: Vec<u8>, may_change: bool) -> Arg {
        self.buffers.push(Buffer {
            format,
            bytes,
            expected: None,
            may_change,
        });
        Arg::Buffer(self.buffers.len() - 1)
    }

    fn of(&mut self, arg: &Arg) -> &mut Buffer {
        match arg {
            Arg::Buffer(index) => &mut self.buffers[*index],
            other => panic!("{other:?} is no whole buffer"),
        }
    }
}

fn compare(place: &str, format: Format, bytes: &[u8], expected: &[f64], tolerance: Tolerance) {
    let actual = bytes.chunks_exact(format.bytes()).map(|b| format.decode(b));
    for (at, (actual, expected)) in actual.zip(expected).enumerate() {
        let allowed = tolerance.absolute + tolerance.relative * expected.abs();
        let same = actual == *expected || (actual.is_nan() && expected.is_nan());
        assert!(
            same || (actual - expected).abs() <= allowed,
            "{place}[{at}] of {} is {actual:e}, expected {expected:e} within {allowed:e}",
            bytes.len() / format.bytes()
        );
    }
}
