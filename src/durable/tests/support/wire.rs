//! A wire to PostgreSQL that loses one answer: what was asked for is done, and the asker never hears of it.

use sqlx::{PgPool, postgres::PgPoolOptions};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::AbortHandle,
};

pub(crate) struct Wire {
    db: PgPool,
    fate: Arc<Fate>,
    serving: AbortHandle,
}

struct Fate {
    /// Once these words have passed on a connection, in whichever direction,
    words: &'static str,
    /// the next answer on it that says this is lost, for once.
    answer: &'static str,
    spent: AtomicBool,
    lost: Semaphore,
    cut: Semaphore,
}

impl Wire {
    pub(crate) async fn losing(db: &PgPool, words: &'static str, answer: &'static str) -> Self {
        let fate = Fate { words, answer, spent: false.into(), lost: Semaphore::new(0), cut: Semaphore::new(0) };
        let fate = Arc::new(fate);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let known = db.connect_options();
        let server = (known.get_host().to_owned(), known.get_port());
        let options = known.as_ref().clone().host("127.0.0.1").port(listener.local_addr().unwrap().port());
        let serving = tokio::spawn({
            let fate = fate.clone();
            async move {
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    tokio::spawn(carry(client, TcpStream::connect(&server).await.unwrap(), fate.clone()));
                }
            }
        });
        let options = options.ssl_mode(sqlx::postgres::PgSslMode::Disable);
        Self { db: PgPoolOptions::new().connect_lazy_with(options), fate, serving: serving.abort_handle() }
    }

    pub(crate) fn pool(&self) -> PgPool {
        self.db.clone()
    }

    /// The answer is on the wire, and nobody has it.
    pub(crate) async fn lost(&self) {
        self.fate.lost.acquire().await.unwrap().forget();
    }

    /// The asker learns that his connection is gone.
    pub(crate) fn cut(&self) {
        self.fate.cut.add_permits(1);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Carries both directions until either ends or the answer is lost.
async fn carry(client: TcpStream, server: TcpStream, fate: Arc<Fate>) {
    let passed = AtomicBool::new(false);
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.into_split(), server.into_split());
    let up = async {
        let mut bytes = vec![0; 65536];
        while let Ok(read @ 1..) = from_client.read(&mut bytes).await {
            if says(&bytes[..read], fate.words) {
                passed.store(true, Ordering::SeqCst);
            }
            if to_server.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    };
    let down = async {
        while let Some(answer) = whole_answer(&mut from_server).await {
            if says(&answer, fate.words) {
                passed.store(true, Ordering::SeqCst);
            }
            if passed.load(Ordering::SeqCst) && says(&answer, fate.answer) && !fate.spent.swap(true, Ordering::SeqCst) {
                fate.lost.add_permits(1);
                fate.cut.acquire().await.unwrap().forget();
                return;
            }
            if to_client.write_all(&answer).await.is_err() {
                return;
            }
        }
    };
    tokio::select! { () = up => {} () = down => {} }
}

/// All messages up to the one that expects an answer itself (a request for a password), brings news (a notification), or says that
/// the server is ready for the next query.
async fn whole_answer(server: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut answer = Vec::new();
    loop {
        let kind = server.read_u8().await.ok()?;
        let length = server.read_u32().await.ok()?;
        answer.push(kind);
        answer.extend(length.to_be_bytes());
        let begin = answer.len();
        answer.resize(begin + usize::try_from(length).unwrap() - 4, 0);
        server.read_exact(&mut answer[begin..]).await.ok()?;
        if matches!(kind, b'R' | b'A' | b'Z' | b'E') {
            return Some(answer);
        }
    }
}

fn says(bytes: &[u8], words: &str) -> bool {
    bytes.windows(words.len()).any(|window| window == words.as_bytes())
}
