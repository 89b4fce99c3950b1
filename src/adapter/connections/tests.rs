use std::sync::atomic::{AtomicUsize, Ordering};

use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::*;

const PATIENCE: Duration = Duration::from_mins(1);

struct Served {
    address: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    /// Ends the requests of `/slow`.
    release: Arc<Notify>,
    slow: Arc<AtomicUsize>,
}

async fn served(total: usize, per_address: usize, head_deadline: Duration) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (release, slow) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (released, entered) = (Arc::clone(&release), Arc::clone(&slow));
    let router = Router::new().route("/fast", get(|| async { "fast" })).route(
        "/slow",
        get(move || {
            let (released, entered) = (Arc::clone(&released), Arc::clone(&entered));
            async move {
                entered.fetch_add(1, Ordering::SeqCst);
                released.notified().await;
                "slow"
            }
        }),
    );
    let limits = ConnectionLimits {
        total,
        per_address,
        head_deadline,
    };
    let stop = CancellationToken::new();
    let task = tokio::spawn(serve(
        listener,
        router,
        "test listener",
        limits,
        stop.clone(),
        Duration::ZERO,
    ));
    Served {
        address,
        stop,
        task,
        release,
        slow,
    }
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn ask(&self, path: &str) -> String {
        let mut stream = self.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        let asked = async {
            stream.write_all(request.as_bytes()).await?;
            stream.read_to_string(&mut answer).await
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap().unwrap();
        answer
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

/// Waits until the server closes a connection.
async fn closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end, too.
    drop(
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest))
            .await
            .unwrap(),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_half_open_connections_leave_requests_working() {
    const FLOOD: usize = 4000;
    assert!(raise_open_files() > 6000, "the flood needs open files");
    let served = served(256, 128, Duration::from_mins(5)).await;
    let slow = {
        let address = served.address;
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream
                .write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .await
                .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        })
    };
    let began = Instant::now();
    while served.slow.load(Ordering::SeqCst) == 0 {
        assert!(began.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
    let mut flood = Vec::new();
    for n in 0..FLOOD {
        let mut stream = served.connect().await;
        // A head that never ends.
        drop(stream.write_all(b"GET /fast HTTP/1.1\r\nHost:").await);
        flood.push(stream);
        if n % 500 == 499 {
            assert!(
                served.ask("/fast").await.ends_with("fast"),
                "after {n} half-open connections"
            );
        }
    }
    // All but the last ones had to give way.
    for stream in flood.drain(..FLOOD - 128) {
        closed(stream).await;
    }
    served.release.notify_one();
    let answer = tokio::time::timeout(PATIENCE, slow).await.unwrap().unwrap();
    assert!(
        answer.ends_with("slow"),
        "a request in progress is not cut off: {answer}"
    );
    served.end().await;
}

#[tokio::test]
async fn head_that_never_ends_is_cut_off() {
    let served = served(16, 16, Duration::from_millis(300)).await;
    let mut drip = served.connect().await;
    let began = Instant::now();
    drip.write_all(b"GET /fast HTTP/1.1\r\n").await.unwrap();
    // One header after the other.
    let mut cut = false;
    while !cut {
        assert!(began.elapsed() < PATIENCE, "the connection is still open");
        cut = drip.write_all(b"X-More: 1\r\n").await.is_err();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let silent = served.connect().await;
    closed(silent).await;
    served.end().await;
}

#[tokio::test]
async fn when_all_connections_have_requests_a_new_one_is_refused() {
    let served = served(2, 2, PATIENCE).await;
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut stream = served.connect().await;
        stream
            .write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        busy.push(stream);
    }
    let began = Instant::now();
    while served.slow.load(Ordering::SeqCst) < 2 {
        assert!(began.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
    closed(served.connect().await).await;
    served.release.notify_waiters();
    served.end().await;
}
