//! Micro-batches that are replayed as CUDA graphs: the same bits as op by op, in every kind of run; what may not be recorded is
//! refused, and a run without graphs goes on.

use std::sync::{Mutex, MutexGuard, OnceLock};

use candle_core::cuda_backend::cudarc::driver::result::{DriverError, event, free_async, malloc_async, stream};
use candle_core::cuda_backend::cudarc::driver::sys::{self, CUresult};
use candle_core::{DType, Device, Tensor};
use dtrain::model::{Activations, DropoutNames, Training, Vit};
use dtrain::ops::captured::{Captured, MicroBatch};
use dtrain::ops::cast::sent;
use dtrain::ops::device::{self, NodeRank};
use dtrain::ops::soft_cross_entropy::{Factors, TargetsThere, soft_cross_entropy_there};
use dtrain::ops::storage::{update, values, words, zeros};
use dtrain::recipe::DeviceChoice;

use super::common::Ended;
use super::playground::{Outcome, Playground};
use super::{models, place, random, runs};

/// A device, that is a stream, of its own: what other tests ask meanwhile must not get into a recording. For one test at a time.
fn device() -> (MutexGuard<'static, ()>, Device) {
    static TURN: Mutex<()> = Mutex::new(());
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    place::gpu(); // where there is none, the stand-in
    let open = || {
        device::open(DeviceChoice::Cuda, NodeRank { rank: 0, ranks: 1 })
            .expect("a GPU")
            .device
    };
    (turn, DEVICE.get_or_init(open).clone())
}

/// Bits of a run's end, of what it logged, and how many graphs were launched.
struct Ran {
    weights: Vec<u8>,
    history: Vec<serde_json::Value>,
    skipped: usize,
    graphs: i64,
}

fn run(place: &Playground, world: usize, name: &str, arguments: &[&str], settings: &[(&str, &str)]) -> (Ran, String) {
    let counts = place.path(&format!("{name}.counts"));
    let all = [
        &[
            "max-steps=6",
            "save-strategy=no",
            "eval-strategy=steps",
            "eval-steps=3",
            "device=cuda",
        ],
        arguments,
    ]
    .concat();
    let all = [&all[..], &["load-best-model-at-end=false"]].concat();
    let output = place
        .command(world, name, &all)
        .envs(place::environment().iter().map(|(name, value)| (*name, value)))
        .env("DTRAIN_STAND_IN_GPUS", world.max(1).to_string())
        .env("DTRAIN_STAND_IN_COUNTS", &counts)
        .envs(settings.iter().copied())
        .output()
        .expect("the program starts");
    let ended = Ended::of(output);
    assert_eq!(ended.code, Some(0), "{arguments:?}:\n{}", ended.text);
    let outcome = Outcome {
        ended,
        directory: place.path(name),
    };
    let graphs = match place::is_real() {
        true => 0,
        false => {
            let text = std::fs::read_to_string(counts).expect("the counts");
            let of = |line: &str| line.split(' ').nth(3).unwrap().parse().unwrap();
            text.lines().map(of).max().expect("a line of every rank")
        }
    };
    let weights = match outcome.directory.join("adapter_model.safetensors").exists() {
        true => outcome.adapter(),
        false => outcome.model(),
    };
    let text = outcome.ended.text.clone();
    let ran = Ran {
        weights,
        history: outcome.timeless_history(),
        skipped: text.lines().filter(|line| line.contains("was skipped")).count(),
        graphs,
    };
    (ran, text)
}

/// LoRA's A gets no gradient before B has moved, so two steps are audited, and replays begin with the third; all weights get one
/// in the first. A step whose gradients overflow tells an audit nothing.
#[test]
fn runs_are_the_same_with_and_without_graphs() {
    let small = Playground::new(24, 8);
    let hot = Playground::new(24, 8);
    runs::heat(&hot);
    let uneven = Playground::new(22, 8);
    let aids = [&runs::MIXED[..], &["per-device-train-batch-size=8"]].concat();
    let cases: [(&Playground, usize, &[&str], i64); 9] = [
        (&small, 0, &["precision=fp16", "per-device-train-batch-size=8"], 4),
        (
            &small,
            0,
            &[
                "precision=fp32",
                "per-device-train-batch-size=2",
                "gradient-accumulation-steps=4",
            ],
            16,
        ),
        // Epochs of 4 + 4, 4 + 4, 4 + 2 images.
        (&uneven, 0, &["precision=bf16", "gradient-accumulation-steps=2"], 6),
        // Steps that overflow are not audited.
        (
            &hot,
            0,
            &["precision=fp16", "per-device-train-batch-size=8", "max-steps=8"],
            6,
        ),
        (&small, 0, &[&aids[..], &["precision=fp16"]].concat(), 5),
        (
            &small,
            0,
            &[
                "precision=fp32",
                "class-weights=1,2,3,4,5,6,7,8",
                "per-device-train-batch-size=8",
            ],
            4,
        ),
        (
            &small,
            0,
            &[
                "precision=fp16",
                "gradient-checkpointing=true",
                "rand-augment=2,9",
                "per-device-train-batch-size=8",
            ],
            4,
        ),
        (&small, 2, &["precision=fp16"], 4),
        (&small, 2, &["precision=fp32", "method=full"], 5),
    ];
    let cases = cases.into_iter().filter(|(_, world, ..)| place::has_gpus(*world));
    for (number, (place, world, arguments, graphs)) in cases.enumerate() {
        let name = |side: &str| format!("{number} {side}");
        let (plain, _) = run(
            place,
            world,
            &name("plain"),
            &[arguments, &["cuda-graph=off"]].concat(),
            &[],
        );
        let (replayed, _) = run(place, world, &name("replayed"), arguments, &[]);
        assert_eq!(replayed.history, plain.history, "{arguments:?}");
        assert!(replayed.weights == plain.weights, "{arguments:?}: other weights");
        assert_eq!(replayed.skipped, plain.skipped, "{arguments:?}");
        if !place::is_real() {
            let expected = graphs - replayed.skipped as i64;
            assert_eq!((plain.graphs, replayed.graphs), (0, expected), "{arguments:?}");
        }
    }
}

#[test]
fn a_replayed_step_asks_for_its_graph_and_its_end_alone_and_waits_for_nothing() {
    if place::is_real() {
        return;
    }
    let place = Playground::new(24, 8);
    let arguments = [
        "precision=fp16",
        "per-device-train-batch-size=4",
        "gradient-accumulation-steps=2",
    ];
    let counted = |steps: usize| runs::counted(&place, 0, steps, &arguments);
    let (few, many) = (counted(5), counted(11));
    let more: Vec<i64> = many.iter().zip(&few).map(|(many, few)| many - few).collect();
    assert_eq!(more[0], 0, "waits for all work");
    // Of a step: the samples of two micro-batches; norm, verdict, AdamW.
    assert_eq!(more[2], 6 * (2 + 3), "kernels");
    assert_eq!(more[3], 6 * 2, "graphs");
}

#[test]
fn without_graphs_a_run_says_so_and_goes_on() {
    if place::is_real() {
        return;
    }
    let place = Playground::new(24, 8);
    let arguments = ["precision=fp16", "per-device-train-batch-size=8"];
    let (plain, text) = run(&place, 0, "plain", &[&arguments[..], &["cuda-graph=off"]].concat(), &[]);
    assert!(!text.contains("CUDA graph"), "{text}");
    let (refused, text) = run(&place, 0, "refused", &arguments, &[("DTRAIN_STAND_IN_GRAPHS", "none")]);
    let said: Vec<&str> = text.lines().filter(|line| line.contains("no CUDA graph")).collect();
    assert_eq!(said.len(), 1, "{text}");
    assert!(said[0].contains("not supported"), "{}", said[0]);
    assert!(refused.weights == plain.weights && refused.history == plain.history);
}

/// Streams that do their work late read what was copied for a replay, not what is copied for the next one.
#[test]
fn replays_take_their_time() {
    if place::is_real() {
        return;
    }
    let place = Playground::new(24, 8);
    let arguments = ["precision=fp16", "gradient-accumulation-steps=2", "image-cache=device"];
    let (plain, _) = run(&place, 0, "plain", &[&arguments[..], &["cuda-graph=off"]].concat(), &[]);
    for order in ["late", "mixed"] {
        let (replayed, _) = run(&place, 0, order, &arguments, &[("DTRAIN_STAND_IN_ORDER", order)]);
        assert!(
            replayed.weights == plain.weights && replayed.history == plain.history,
            "{order}"
        );
        assert_eq!(replayed.graphs, 8, "{order}");
    }
}

/// Forward, losses and backward of a whole model, on the GPU.
fn walk(vit: &mut Vit, micro_batch: &MicroBatch, factors: &Factors) -> dtrain::error::Result<()> {
    let logits = vit.forward(&micro_batch.pixels_bchw, Some(&micro_batch.names))?;
    let (_, dlogits) = soft_cross_entropy_there(&logits, &micro_batch.targets, factors)?;
    vit.backward(&dlogits)
}

fn micro_batch<'a>(device: &Device, number: u32, samples: &'a [u64]) -> MicroBatch<'a> {
    MicroBatch {
        pixels_bchw: sent(&random(&[samples.len(), 3, 12, 12], number, 1.0), device, DType::F32).unwrap(),
        targets: TargetsThere {
            labels_b: words(
                &samples.iter().map(|sample| *sample as u32 % 4).collect::<Vec<_>>(),
                device,
            )
            .unwrap(),
            mixed: None,
            weights_c: None,
            smoothing: 0.1,
        },
        names: DropoutNames {
            seed: 11,
            epoch: number,
            samples,
        },
    }
}

fn factors(device: &Device) -> Factors {
    let one = |x: f32| sent(&Tensor::new(&[x], &Device::Cpu).unwrap(), device, DType::F32).unwrap();
    Factors {
        per_sample: one(1.0 / 3.0),
        loss_scale: one(64.0),
    }
}

#[test]
fn gradients_of_replayed_models_are_those_of_models_asked_op_by_op() {
    let (_turn, device) = device();
    let samples: [&[u64]; 3] = [&[5, 900_000_000_000, 6], &[1, 2, 3], &[8, 5, 7]];
    for (training, heads) in [
        (Training::Full, 4),
        (models::lora(), 1),
        (models::widened(&["query", "value"], 0.25), 1),
        (Training::Head, 1),
    ] {
        for (dtype, activations) in [
            (DType::F32, Activations::Kept),
            (DType::F16, Activations::Recomputed),
            (DType::BF16, Activations::Kept),
        ] {
            let what = format!("{training:?} in {dtype:?}, {activations:?}");
            let (_, mut vit) = models::twins_on(&device, heads, &training, dtype);
            vit.set_activations(activations);
            let factors = factors(&device);
            let batches: Vec<MicroBatch> = samples
                .iter()
                .zip(1..)
                .map(|(names, number)| micro_batch(&device, number, names))
                .collect();
            let gradients = |vit: &Vit| {
                let gradients = values(&vit.parameters().gradients).unwrap().to_vec();
                vit.parameters().zero_gradients().unwrap();
                gradients
            };
            let expected: Vec<Vec<f32>> = batches
                .iter()
                .map(|batch| {
                    walk(&mut vit, batch, &factors).unwrap();
                    gradients(&vit)
                })
                .collect();
            let captured = Captured::record(&batches[0], |fixed| walk(&mut vit, fixed, &factors)).unwrap();
            assert!(
                gradients(&vit).iter().all(|x| *x == 0.0),
                "{what}: a recording does nothing"
            );
            for (batch, expected) in batches.iter().zip(&expected) {
                assert!(captured.fits(batch));
                captured.replay(batch).unwrap();
                assert!(&gradients(&vit) == expected, "{what}");
            }
            // What a GPU decides itself is read where it lies.
            update(&factors.loss_scale, |scale| scale[0] = 32.0).unwrap();
            walk(&mut vit, &batches[1], &factors).unwrap();
            let expected = gradients(&vit);
            captured.replay(&batches[1]).unwrap();
            assert!(gradients(&vit) == expected, "{what}: another loss scale");
            // Op by op in between, on memory that others freed.
            walk(&mut vit, &batches[1], &factors).unwrap();
            captured.replay(&batches[2]).unwrap();
            let sum: f64 = gradients(&vit).iter().map(|x| f64::from(*x).abs()).sum();
            assert!(sum.is_finite() && sum > 0.0, "{what}");
            assert!(!captured.fits(&micro_batch(&device, 1, &[1, 2])));
        }
    }
}

#[test]
fn what_cannot_be_recorded_is_an_error_and_changes_nothing() {
    let (_turn, device) = device();
    let batch = micro_batch(&device, 1, &[1, 2, 3]);
    let recorded = |work: &mut dyn FnMut() -> dtrain::error::Result<()>| {
        Captured::record(&batch, |_| work())
            .err()
            .map(|error| error.to_string())
    };
    let x = sent(&random(&[100], 1, 1.0), &device, DType::F32).unwrap();
    let read = recorded(&mut || values(&x).map(|_| ())).expect("no copy to the host can be recorded");
    assert!(read.contains("cannot be recorded"), "{read}");
    let sent = recorded(&mut || words(&[1, 2], &device).map(|_| ())).expect("no copy to the GPU can be recorded");
    assert!(sent.contains("cannot be recorded"), "{sent}");
    let mut before = Some(zeros(100, DType::F32, &device).unwrap());
    assert!(
        recorded(&mut || {
            drop(before.take());
            Ok(())
        })
        .is_some(),
        "what was made before is dropped in it"
    );
    let mut kept = None;
    let leaks = Captured::record(&batch, |_| {
        kept = Some(zeros(100, DType::F32, &device)?);
        Ok(())
    });
    if let Ok(leaks) = leaks {
        leaks.replay(&batch).unwrap();
        assert!(leaks.replay(&batch).is_err(), "memory that is not freed is there once");
        drop(kept.take());
    }
    assert!(recorded(&mut || Ok(())).is_none());
    assert_eq!(values(&x).unwrap().len(), 100);
}

/// 600 MiB of the stand-in's GiB belong to a graph, and 500 others are asked for.
#[test]
fn a_full_gpu_takes_the_memory_of_a_graph_that_does_not_run() {
    let (_turn, device) = device();
    let batch = micro_batch(&device, 1, &[1, 2, 3]);
    let large = |mebibytes: usize| zeros(mebibytes << 18, DType::F32, &device);
    let captured = Captured::record(&batch, |_| large(600).map(drop)).unwrap();
    captured.replay(&batch).unwrap();
    let other = large(500).unwrap();
    if !place::is_real() {
        let full = captured.replay(&batch).expect_err("there is no room for both");
        assert!(full.to_string().contains("out of memory"), "{full}");
    }
    drop(other);
    captured.replay(&batch).unwrap();
}

/// The driver's own rules, which the stand-in has too.
#[test]
fn captures_are_spoilt_by_what_the_driver_forbids() {
    let (_turn, device) = device();
    zeros(1, DType::F32, &device).unwrap();
    let refusal = |work: &dyn Fn(sys::CUstream, sys::CUstream) -> Result<(), DriverError>| {
        // SAFETY: streams and events are made here, used by nobody else, and alive.
        unsafe {
            let [captured, other] = [0; 2].map(|_| stream::create(stream::StreamKind::NonBlocking).unwrap());
            stream::begin_capture(captured, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
            let done = work(captured, other);
            let mut graph = std::ptr::null_mut();
            let ended = sys::cuStreamEndCapture(captured, &mut graph);
            if !graph.is_null() {
                sys::cuGraphDestroy(graph);
            }
            (done.err().map(|error| error.0), ended)
        }
    };
    let made = || event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap();
    let spoilt = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    // SAFETY: as above; addresses are those of the driver.
    unsafe {
        let fine = refusal(&|captured, _| free_async(malloc_async(captured, 64)?, captured));
        assert_eq!(fine, (None, CUresult::CUDA_SUCCESS));
        let waited = refusal(&|captured, _| stream::synchronize(captured));
        assert_eq!(waited, (Some(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED), spoilt));
        let (asked, _) = refusal(&|captured, _| {
            let mark = made();
            event::record(mark, captured)?;
            event::query(mark)
        });
        assert_eq!(asked, Some(CUresult::CUDA_ERROR_CAPTURED_EVENT));
        let (waits, ended) = refusal(&|captured, other| {
            let mark = made();
            event::record(mark, other)?;
            stream::wait_event(captured, mark, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT)
        });
        assert_eq!(
            (waits, ended),
            (Some(CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION), spoilt)
        );
        for joins in [true, false] {
            let (done, ended) = refusal(&|captured, other| {
                let mark = made();
                let wait = |stream| stream::wait_event(stream, mark, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT);
                event::record(mark, captured)?;
                wait(other)?;
                free_async(malloc_async(other, 64)?, other)?;
                event::record(mark, other)?;
                if joins { wait(captured) } else { Ok(()) }
            });
            let expected = match joins {
                true => CUresult::CUDA_SUCCESS,
                false => CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED,
            };
            assert_eq!((done, ended), (None, expected));
        }
    }
}
