package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
)

const repository = "library/crash"

// site is a stand-in for Docker Hub and, most of the time, a hubcap in front of it.
type site struct {
	hub    *fakehub.Hub
	binary string   // that is run
	extra  []string // settings that this test adds
	box    *box     // the latest one
	random *rand.Rand

	lastWords []byte // of the latest box that did not come up

	blobs []*blob // that the stand-in has
}

// blob is content that can be pulled.
type blob struct {
	digest  digest.Digest
	content []byte
}

func newSite(t testing.TB, random *rand.Rand, settings ...string) *site {
	t.Helper()
	return &site{hub: fakehub.Start(t, fakehub.Options{}), binary: testkit.Hubcap(t, root), extra: settings, random: random}
}

// settings are hubcap's whole environment, except for the data directory.
func (s *site) settings() []string {
	token, _ := url.Parse(s.hub.TokenURL()) // fakehub makes no wrong one
	return append([]string{
		"HUBCAP_LISTEN=127.0.0.1:0", "HUBCAP_ADMIN_LISTEN=127.0.0.1:0",
		"HUBCAP_CACHE_SIZE=1GiB", "HUBCAP_MIN_FREE=1MiB", "HUBCAP_MAX_BLOB=1GiB", "HUBCAP_DRAIN_TIMEOUT=200ms",
		"HUBCAP_UPSTREAM_0_HOST=docker.io", "HUBCAP_UPSTREAM_0_URL=" + s.hub.RegistryURL(),
		"HUBCAP_UPSTREAM_0_TOKEN_HOSTS=" + token.Host, "HUBCAP_UPSTREAM_0_PRIVATE_CIDRS=127.0.0.0/8",
	}, s.extra...)
}

// publish puts a new blob of size bytes into the stand-in.
func (s *site) publish(size int) *blob {
	content := fakehub.RandomBlob(s.random.Uint64(), size)
	b := &blob{digest: s.hub.AddBlob(repository, content), content: content}
	s.blobs = append(s.blobs, b)
	return b
}

// publishMany is publish for blobs of random sizes.
func (s *site) publishMany(n, least, most int) (all []*blob) {
	for range n {
		all = append(all, s.publish(least+s.random.IntN(most-least+1)))
	}
	return all
}

// forget keeps the last few blobs and takes the others from the stand-in, so that many rounds fit in memory.
func (s *site) forget(keep int) {
	for len(s.blobs) > keep {
		s.hub.DeleteBlob(repository, s.blobs[0].digest)
		s.blobs = s.blobs[1:]
	}
	s.hub.Reset()
}

// tagged publishes a small image under a tag, which is something for the index.
func (s *site) tagged(tag string) (config *blob) {
	image := s.hub.Image(repository, tag, fakehub.RandomBlob(s.random.Uint64(), 1000))
	return &blob{digest: image.Manifest.Digest, content: image.Body}
}

// answer is what a client got.
type answer struct {
	wrong bool  // it was told that all is well with bytes that are not those it asked for
	err   error // why it did not get everything
}

// get pulls a blob through hubcap, from off on. The client is as trusting as can be: what ends without an error is an answer.
func (b *box) get(ctx context.Context, want *blob, off int) answer {
	return b.getPath(ctx, "/v2/"+repository+"/blobs/"+want.digest.String(), want, off)
}

func (b *box) getPath(ctx context.Context, path string, want *blob, off int) answer {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.mirror+path, nil)
	if err != nil {
		return answer{err: err}
	}
	expected, status := want.content[off:], http.StatusOK
	if off > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", off))
		status = http.StatusPartialContent
	}
	response, err := b.client.Do(request)
	if err != nil {
		return answer{err: err}
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		expected = want.content // a server may ignore a Range
	} else if response.StatusCode != status {
		return answer{err: fmt.Errorf("answered %s", response.Status)}
	}
	same, err := matches(response.Body, expected)
	return answer{wrong: err == nil && !same, err: err}
}

// matches reads a body to its end and tells whether it is the one expected.
func matches(body io.Reader, expected []byte) (same bool, err error) {
	same = true
	for buf := make([]byte, 256<<10); ; {
		n, err := body.Read(buf)
		same = same && n <= len(expected) && bytes.Equal(buf[:n], expected[:n])
		expected = expected[min(n, len(expected)):]
		if errors.Is(err, io.EOF) {
			return same && len(expected) == 0, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// mustPull pulls blobs that have to come, and come right.
func (s *site) mustPull(t testing.TB, blobs ...*blob) {
	t.Helper()
	for _, want := range blobs {
		got := s.box.get(t.Context(), want, 0)
		switch {
		case got.err != nil:
			s.box.assertAlive(t)
			t.Errorf("%s of %d bytes does not come: %v", want.digest, len(want.content), got.err)
		case got.wrong:
			t.Errorf("%s of %d bytes: wrong bytes in a complete answer", want.digest, len(want.content))
		}
	}
}

// hold is mustPull, and waits until the blobs are files: a client has its last byte before that.
func (s *site) hold(t testing.TB, blobs ...*blob) {
	t.Helper()
	s.mustPull(t, blobs...)
	waitUntil(t, "the fills end", func() bool {
		m := s.box.scrape()
		return s.box.ended() || m != nil && m.sum("hubcap_fills_running") == 0
	})
}

// tryPull pulls a blob that may fail to come, but not come wrong. It tells whether it came.
func (s *site) tryPull(t testing.TB, want *blob, off int) bool {
	t.Helper()
	got := s.box.get(t.Context(), want, off)
	if got.wrong {
		t.Errorf("%s of %d bytes from %d on: wrong bytes in a complete answer", want.digest, len(want.content), off)
	}
	return got.err == nil
}

// crossed is how many bytes of a blob have left the stand-in so far.
func (s *site) crossed(b *blob) int64 { return s.hub.BytesSent(b.digest) }

// traffic is clients that pull without pause, until they are told to stop.
type traffic struct {
	box     *box
	stopped context.CancelFunc
	running sync.WaitGroup
	excused atomic.Bool // from now on, answers may fail
	pulls   atomic.Int64

	mu     sync.Mutex
	wrong  []string // answers that were complete and wrong
	failed []string // answers that failed without an excuse
}

// traffic begins n clients that pull blobs at random: half of the answers whole, the others from somewhere to the end.
func (s *site) traffic(n int, blobs []*blob) *traffic {
	ctx, cancel := context.WithCancel(context.Background())
	tr := &traffic{box: s.box, stopped: cancel}
	for range n {
		random := rand.New(rand.NewPCG(s.random.Uint64(), 0))
		tr.running.Go(func() {
			for ctx.Err() == nil && !tr.box.ended() {
				want, off := blobs[random.IntN(len(blobs))], 0
				if random.IntN(2) == 0 {
					off = random.IntN(len(want.content))
				}
				tr.note(want, off, tr.box.get(ctx, want, off), ctx)
			}
		})
	}
	return tr
}

func (tr *traffic) note(want *blob, off int, got answer, ctx context.Context) {
	tr.pulls.Add(1)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	switch {
	case got.wrong:
		tr.wrong = append(tr.wrong, fmt.Sprintf("%s from %d on", want.digest, off))
	case got.err != nil && ctx.Err() == nil && !tr.excused.Load():
		tr.failed = append(tr.failed, fmt.Sprintf("%s from %d on: %v", want.digest, off, got.err))
	}
}

// excuse is called just before something that cuts answers.
func (tr *traffic) excuse() { tr.excused.Store(true) }

// end stops the clients and judges what they got: no answer may have failed without an excuse.
func (tr *traffic) end(t testing.TB) {
	t.Helper()
	tr.endBut(t, 0)
}

// endBut is end where so many answers may have failed.
func (tr *traffic) endBut(t testing.TB, most int) {
	t.Helper()
	tr.stopped()
	tr.running.Wait()
	if len(tr.wrong) > 0 {
		t.Errorf("wrong bytes in complete answers: %s", strings.Join(tr.wrong, "; "))
	}
	if len(tr.failed) > most {
		t.Errorf("answers that failed: %s", strings.Join(tr.failed, "; "))
	}
}
