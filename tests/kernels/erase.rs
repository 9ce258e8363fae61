//! `kernels/erase.cu` against `ops::pixels::Erased`.

use dtrain::ops::jpeg::Rect;
use dtrain::ops::launch;
use dtrain::ops::pixels::Erased;

use super::case::{Arg, Case, Format, Tolerance};
use super::values::normal;

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Format::REAL.into_iter().map(case).collect();
    cases.push(case(Format::F16).misaligned());
    cases
}

const SIZE: (usize, usize) = (70, 61);

/// Nothing erased; everything; one pixel; a rectangle of more pixels than the kernel has threads; an empty one. With no value, with
/// one a channel, with all.
fn case(format: Format) -> Case {
    let mut case = Case::new(format!("erase {format:?}"));
    let (width, height) = SIZE;
    let rect = |x, y, width, height| Rect { x, y, width, height };
    let all: Vec<Option<Erased>> = [
        (None, 0),
        (Some(rect(0, 0, width, height)), 0),
        (Some(rect(3, 5, 60, 50)), 3),
        (Some(rect(width - 1, height - 1, 1, 1)), 3),
        (Some(rect(3, 5, 60, 50)), 3 * 60 * 50),
        (Some(rect(9, 0, 2, 61)), 3 * 2 * 61),
        (Some(rect(9, 9, 0, 7)), 0),
    ]
    .into_iter()
    .map(|(rect, values)| {
        Some(Erased {
            rect: rect?,
            values: normal(Format::F32, values, 3),
        })
    })
    .collect();
    let samples = normal(format, all.len() * 3 * width * height, 1);
    let (mut jobs, mut records) = (Vec::new(), vec![0u32; 4]);
    let mut expected = samples.clone();
    for (erased, sample_chw) in all.iter().zip(expected.chunks_exact_mut(3 * width * height)) {
        let mut job = [77u32; 12];
        [job[10], job[11]] = [0, 0];
        if let Some(erased) = erased {
            [job[10], job[11]] = [records.len() as u32 / 4, erased.values.len() as u32];
            let Rect { x, y, width, height } = erased.rect;
            records.extend([x, y, width, height].map(|side| side as u32));
            records.extend(erased.values.iter().map(|value| value.to_bits()));
            records.resize(records.len().next_multiple_of(4), 0);
            erased.apply(sample_chw, SIZE);
        }
        jobs.extend(job);
    }
    let out = case.state(format, samples);
    let args = vec![
        out.clone(),
        case.input(Format::U32, jobs),
        case.input(Format::U32, records),
        Arg::U32(width as u32),
        Arg::U32(height as u32),
    ];
    case.step(format!("erase_{}", format.suffix()), launch::erase(all.len()), args);
    case.expect(&out, expected.iter().map(|x| format.rounded(*x)), Tolerance::EXACT);
    case
}
