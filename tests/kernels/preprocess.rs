//! `kernels/preprocess.cu` against `ops::preprocess`: the u8 stage bit for bit, and what the formats make of the values.

use dtrain::ops::jpeg::Rect;
use dtrain::ops::launch::Preprocess;
use dtrain::ops::preprocess::{Batch, Cut, Picture, Plan, SLACK, Values, preprocess};
use dtrain::ops::resample::Filter;
use dtrain::rng::{Purpose, Stream};

use super::case::{Arg, Case, Format, Tolerance};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in Format::REAL {
        // Enough rows for several strips, columns that are no multiple of anything.
        cases.push(case("crops", format, (37, 45), &crops(), 0));
        cases.push(case("empty", format, (8, 8), &[], 0));
        cases.push(case("patches", format, (24, 32), &crops()[..5], 8));
        cases.push(case("one value", format, (1, 1), &crops()[..3], 0));
    }
    for filter in Filter::ALL {
        let with = |cuts: &[Made]| -> Vec<Made> {
            let change = |made: &Made| Made {
                cut: Cut { filter, ..made.cut },
                ..*made
            };
            cuts.iter().map(change).collect()
        };
        cases.push(case(&format!("{filter:?}"), Format::F32, (20, 33), &with(&shapes()), 0));
    }
    // Of each picture only what is read of it.
    for (name, size, all) in [
        ("parts", (37, 45), crops()),
        ("parts of shapes", (20, 33), shapes()),
        ("parts of wide", (9, 300), wide()),
    ] {
        cases.push(case_of_parts(name, size, &all));
    }
    cases.push(case(
        "edges between pixels",
        Format::F32,
        (20, 33),
        &between_pixels(),
        0,
    ));
    // Two tiles of columns; rows of several chunks.
    cases.push(case("wide", Format::F16, (9, 300), &wide(), 0));
    cases
}

/// A picture of `size` (width, height), and what is cut out of it.
#[derive(Clone, Copy)]
struct Made {
    size: (usize, usize),
    cut: Cut,
}

fn made(size: (usize, usize), crop: [usize; 4], resized: (usize, usize)) -> Made {
    let [x, y, width, height] = crop;
    Made {
        size,
        cut: Cut {
            crop: Rect { x, y, width, height },
            part: None,
            resized,
            filter: Filter::Bilinear,
            offset: (0, 0),
            flip: false,
        },
    }
}

impl Made {
    fn flipped(self) -> Made {
        Made {
            cut: Cut { flip: true, ..self.cut },
            ..self
        }
    }

    fn from(self, offset: (isize, isize)) -> Made {
        Made {
            cut: Cut { offset, ..self.cut },
            ..self
        }
    }
}

/// Crops as training draws them, and their extremes; samples of 45 x 37 are full except where the offset says otherwise.
fn crops() -> Vec<Made> {
    vec![
        made((81, 64), [3, 5, 70, 53], (45, 37)),
        made((64, 97), [1, 2, 47, 95], (45, 37)).flipped(), // begins vertically
        made((1, 1), [0, 0, 1, 1], (45, 37)),
        made((45, 37), [0, 0, 45, 37], (45, 37)).flipped(), // nothing to resize
        made((19, 12), [17, 11, 2, 1], (45, 37)),           // the last pixels of a picture
        made((53, 80), [4, 0, 45, 80], (45, 37)),           // one direction only
        made((80, 41), [4, 1, 73, 37], (45, 37)).flipped(),
        made((30, 20), [0, 0, 30, 20], (30, 20)).from((-7, -8)), // padded on all sides
        made((90, 70), [0, 0, 90, 70], (60, 47)).from((7, 5)).flipped(),
        made((9, 7), [0, 0, 9, 7], (5, 3)).from((60, 0)), // nothing of it is seen
        made((90, 7), [1, 1, 88, 6], (45, 37)),
    ]
}

/// Samples of 33 x 20, whatever the filter: larger, smaller, much smaller, with padding.
fn shapes() -> Vec<Made> {
    vec![
        made((41, 37), [1, 1, 39, 35], (33, 20)),
        made((7, 5), [0, 1, 7, 3], (33, 20)).flipped(),
        made((200, 170), [5, 3, 190, 160], (33, 20)), // more groups than a thread keeps
        made((35, 150), [0, 0, 35, 150], (33, 20)).flipped(), // begins vertically
        made((20, 90), [2, 0, 17, 90], (33, 17)).from((0, -2)),
    ]
}

/// As in pictures that were decoded at an eighth, a quarter and half of their size.
fn between_pixels() -> Vec<Made> {
    let part = |made: Made, part: [(f64, f64); 2]| Made {
        cut: Cut {
            part: Some(part),
            ..made.cut
        },
        ..made
    };
    vec![
        part(
            made((60, 50), [3, 2, 50, 41], (33, 20)),
            [(0.375, 49.25), (0.875, 39.5)],
        ),
        part(
            made((40, 30), [0, 1, 34, 21], (33, 20)).flipped(),
            [(0.25, 33.75), (0.5, 20.25)],
        ),
        part(
            made((90, 70), [1, 1, 80, 60], (60, 47)).from((7, 5)),
            [(0.5, 79.0), (0.0, 59.5)],
        ),
        part(
            made((35, 150), [0, 0, 34, 149], (33, 20)),
            [(0.5, 33.0), (0.25, 148.25)],
        ),
    ]
}

fn wide() -> Vec<Made> {
    vec![
        made((1201, 10), [0, 0, 1201, 10], (300, 9)), // four chunks of columns
        made((3001, 40), [1, 0, 2999, 39], (299, 9)).from((0, 0)).flipped(),
        made((1300, 600), [0, 1, 1299, 598], (1, 2)).from((-200, -3)), // thousands of inputs for a value
        made((300, 100), [0, 0, 300, 100], (300, 9)),
    ]
}

/// Samples are expected to be those of whole pictures.
fn case_of_parts(name: &str, size: (usize, usize), all: &[Made]) -> Case {
    let (wholes, batch) = pictures(size, all);
    let mut plan = Plan::new(size);
    let (mut parts, mut of_parts) = (Vec::new(), Batch::new(size));
    for (picture, cut) in batch.pictures() {
        plan.set(*cut);
        let part = plan.needed();
        of_parts.push(Picture::part(parts.len(), part), *cut);
        for y in part.y..part.bottom() {
            parts.extend_from_slice(&wholes[picture.start + 3 * (y * picture.width + part.x)..][..3 * part.width]);
        }
    }
    checked(
        format!("preprocess {name}"),
        Format::F32,
        (&wholes, &batch),
        (parts, &of_parts),
        0,
    )
}

fn case(name: &str, format: Format, size: (usize, usize), all: &[Made], patch: usize) -> Case {
    let (pixels, batch) = pictures(size, all);
    let name = format!("preprocess {name} {format:?}");
    checked(name, format, (&pixels.clone(), &batch), (pixels, &batch), patch)
}

fn pictures(size: (usize, usize), all: &[Made]) -> (Vec<u8>, Batch) {
    let mut pixels = Vec::new();
    let mut batch = Batch::new(size);
    for made in all {
        // Pictures start at every place within a word, and noise of extremes makes weights below zero overshoot.
        let start = pixels.len();
        let stream = Stream::new(start as u64, 0, 0, Purpose::Augment(0));
        let noise = (0..(3 * made.size.0 * made.size.1) as u32).map(|i| {
            let drawn = stream.below(i, 1024);
            [drawn as u8, 0, 255, (drawn / 4) as u8][drawn as usize % 4]
        });
        pixels.extend(noise);
        let (width, height) = made.size;
        batch.push(Picture::whole(start, width, height), made.cut);
    }
    (pixels, batch)
}

/// The CPU makes what is expected of one form of the pictures, the kernel reads the other one.
fn checked(
    name: String,
    format: Format,
    (wholes, expected): (&[u8], &Batch),
    (mut pixels, batch): (Vec<u8>, &Batch),
    patch: usize,
) -> Case {
    let mut case = Case::new(name);
    let (size, (height, width)) = (batch.size(), batch.size());
    let values: Values =
        std::array::from_fn(|c| std::array::from_fn(|v| ((v as f32 / 255.0) - 0.4 - 0.05 * c as f32) / 0.226));
    let mut samples = vec![0.0; batch.len() * 3 * height * width];
    preprocess(wholes, expected, &values, &mut samples);
    let mut again = samples.clone();
    preprocess(&pixels, batch, &values, &mut again);
    assert!(again == samples, "{}: the CPU makes other samples of parts", case.name);
    let expected: Vec<f32> = match patch {
        0 => samples,
        p => patches(&samples, size, p),
    };
    pixels.extend([0xee; SLACK]);
    let out = case.output(format, expected.len());
    let Preprocess { launch, strip } = Preprocess::new(batch.len(), height, width);
    let args = vec![
        out.clone(),
        case.input(Format::U8, pixels),
        case.input(Format::U32, batch.jobs().to_vec()),
        case.input(Format::U32, batch.tables().to_vec()),
        case.input(Format::F32, values.into_iter().flatten()),
        Arg::U32(width as u32),
        Arg::U32(height as u32),
        Arg::U32(strip),
        Arg::U32(patch as u32),
    ];
    case.step(format!("preprocess_{}", format.suffix()), launch, args);
    case.expect(&out, expected.iter().map(|x| format.rounded(*x)), Tolerance::EXACT);
    case
}

/// `[b,3,h,w]` as rows of patches, `[b,(h/p)·(w/p),3·p·p]`.
fn patches(x_bchw: &[f32], (height, width): (usize, usize), p: usize) -> Vec<f32> {
    let mut rows = Vec::with_capacity(x_bchw.len());
    for x_chw in x_bchw.chunks_exact(3 * height * width) {
        for (top, left) in (0..height / p).flat_map(|i| (0..width / p).map(move |j| (i * p, j * p))) {
            for (c, y) in (0..3).flat_map(|c| (top..top + p).map(move |y| (c, y))) {
                rows.extend_from_slice(&x_chw[(c * height + y) * width + left..][..p]);
            }
        }
    }
    rows
}
