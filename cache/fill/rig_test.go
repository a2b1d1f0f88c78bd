package fill

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
	"hubcap/cache/locks"
	"hubcap/e2e/testkit"
	"hubcap/eviction"
	"hubcap/metrics"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

const kib, mib = 1 << 10, 1 << 20

// shelf holds what fills bring, for tests.
type shelf struct{ ledger *eviction.Ledger }

func (shelf) Remove(digest.Digest)      {}
func (shelf) Clear(digest.Digest) error { return nil }
func (s shelf) Keep(k Kept)             { s.ledger.Commit(k.Digest, k.Reserved, k.Stat.Size) }
func (shelf) Reveal(digest.Digest)      {}
func (shelf) Writable() error           { return nil }
func (shelf) WriteFailed(error)         {}

// newFills returns Fills over a directory of their own, in which an illegal
// transition panics.
func newFills(t testing.TB, change ...func(*Options)) *Fills {
	t.Helper()
	store, err := blobs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	all := metrics.New()
	ledger := eviction.NewLedger(eviction.LedgerOptions{
		Limit: 1 << 30, SmallSize: 4 * kib, SmallShare: 0.05, High: 1, Low: 0.9, Now: time.Now, Metrics: all.Space,
	})
	s := shelf{ledger: ledger}
	o := Options{
		Store: store, Ledger: ledger, Reserve: func(_ digest.Digest, size int64) error { return ledger.Reserve(size) }, Remover: s, Holder: s, Disk: s,
		Digests: new(locks.Digests), Files: new(locks.Files),
		MaxBlob: 1 << 30, Connections: 4, MaxFills: 64, MaxConnections: 64, MaxPerHost: 16,
		Patience: time.Minute, Now: time.Now, Metrics: all, Log: slog.New(slog.NewTextHandler(new(testkit.Log), nil)),
	}
	for _, one := range change {
		one(&o)
	}
	f := New(o)
	t.Cleanup(func() {
		f.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// sourceFunc is a source made of a function.
type sourceFunc func(ctx context.Context, off, n int64) (*Stream, error)

func (f *sourceFunc) Open(ctx context.Context, off, n int64) (*Stream, error) {
	return (*f)(ctx, off, n)
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }
