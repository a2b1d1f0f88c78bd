package cache

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestFillsWaitForTheirTurn requests more blobs than may be filled at a time: the rest
// begin in order as others end, and a registry that hangs leaves a turn to others.
func TestFillsWaitForTheirTurn(t *testing.T) {
	const turns, blobs = 4, 12
	r := newRig(t, rigOptions{change: func(o *Options) { o.MaxFills = turns }})
	waiting := func() int {
		n, _ := r.o.Metrics.Value("hubcap_fills_waiting")
		return int(n)
	}
	hangs := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(hangs) })
	t.Cleanup(goOn)
	var begun, pulled sync.WaitGroup
	var mu sync.Mutex
	asked := 0
	for i := range blobs {
		body, d := randomContent(uint64(900+i), 10*kib)
		source := &origin{body: body, script: func(_, _ int64, in io.Reader) (io.Reader, error) {
			mu.Lock()
			defer mu.Unlock()
			asked++
			return gate{in, hangs}, nil
		}}
		begun.Add(1)
		pulled.Go(func() {
			begun.Done()
			pull(t, r, Want{Digest: d, Source: source, Host: "hangs", Size: int64(len(body))}, body)
		})
	}
	begun.Wait()
	eventually(t, "all but its share of the turns wait", func() bool { return waiting() == blobs-turnsOfHost(turns) })
	mu.Lock()
	if asked != turnsOfHost(turns) {
		t.Errorf("%d are fetched at a time, want %d", asked, turnsOfHost(turns))
	}
	mu.Unlock()
	body, d := randomContent(899, 10*kib)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		pull(t, r, Want{Digest: d, Source: &origin{body: body}, Host: "answers", Size: int64(len(body))}, body)
	}()
	eventually(t, "another registry's blob comes", func() bool { return isClosed(answered) })
	goOn()
	pulled.Wait()
	if n := waiting(); n != 0 {
		t.Errorf("%d still wait", n)
	}
	r.checkLedger()
}

// TestTurnsEndWithTheCache shows that no fill waits for its turn after Close.
func TestTurnsEndWithTheCache(t *testing.T) {
	r := newRig(t, rigOptions{change: func(o *Options) { o.MaxFills = 1 }})
	hangs := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(hangs) })
	t.Cleanup(goOn)
	var all sync.WaitGroup
	var came atomic.Int64
	for i := range 3 {
		body, d := randomContent(uint64(920+i), 10*kib)
		source := &origin{body: body, script: func(_, _ int64, in io.Reader) (io.Reader, error) { return gate{in, hangs}, nil }}
		all.Go(func() {
			b, err := r.Open(t.Context(), Want{Digest: d, Source: source, Host: "hangs", Size: int64(len(body))})
			if err == nil {
				err = b.Send(t.Context(), new(client), 0, -1)
				b.Close()
			}
			if err == nil {
				came.Add(1)
			}
		})
	}
	eventually(t, "two wait", func() bool { n, _ := r.o.Metrics.Value("hubcap_fills_waiting"); return n == 2 })
	stopped := make(chan struct{})
	go func() { r.Close(); close(stopped) }()
	eventually(t, "they end", func() bool { n, _ := r.o.Metrics.Value("hubcap_fills_waiting"); return n == 0 })
	goOn()
	<-stopped
	all.Wait()
	if n := came.Load(); n > 1 {
		t.Errorf("%d blobs came, and there was a turn for one", n)
	}
}

// pull reads a whole blob, which must be right.
func pull(t *testing.T, r *rig, want Want, body []byte) {
	t.Helper()
	b, err := r.Open(t.Context(), want)
	if err != nil {
		t.Error(err)
		return
	}
	defer b.Close()
	got := new(client)
	if err := b.Send(t.Context(), got, 0, -1); err != nil || !bytes.Equal(got.Bytes(), body) || digest.FromBytes(got.Bytes()) != want.Digest {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
}
