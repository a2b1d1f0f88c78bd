package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
)

// Where the S3 server listens, and what it is told. Every namespace has it to itself.
const (
	s3Address = "127.0.0.1:7070"
	s3Key     = "hubcap"
	s3Secret  = "not a secret"
)

// gateway is a versitygw, which keeps objects as files.
type gateway struct {
	*process
	dir string // of the bucket
}

// startGateway starts an S3 server with an empty bucket.
func (s *site) startGateway(t *testing.T) *gateway {
	t.Helper()
	program := installed("versitygw")
	need(t, program)
	dir, side := scratch(t), scratch(t)
	g := &gateway{dir: filepath.Join(dir, "bucket")}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// Not every file system has the attributes that it would keep beside the files.
	cmd := exec.Command(program, "--access", s3Key, "--secret", s3Secret, "--port", s3Address, "posix", "--sidecar", side, dir)
	cmd.Env = environment()
	g.process = startDaemon(t, s.ns, "versitygw", cmd)
	g.waitReady(t, func() bool { return s.listens(t, s3Address) })
	return g
}

// listens reports whether somebody accepts connections at an address.
func (s *site) listens(t *testing.T, address string) bool {
	c, err := s.ns.dial(t.Context(), "tcp", address)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// object returns what the bucket holds of d; nil for nothing.
func (g *gateway) object(d digest.Digest) []byte {
	content, err := os.ReadFile(filepath.Join(g.dir, "blobs", d.Algorithm().String(), d.Encoded()))
	if err != nil {
		return nil
	}
	return content
}

// tierAt are the settings of a box with the bucket at an address.
func tierAt(address string, more ...string) []string {
	return append([]string{"HUBCAP_S3_URL=http://" + address + "/bucket", "HUBCAP_S3_ACCESS_KEY=" + s3Key, "HUBCAP_S3_SECRET_KEY=" + s3Secret}, more...)
}

// blobsAsked returns how often the registry was asked for a blob.
func (s *site) blobsAsked() int {
	return s.hub.Count(fakehub.OfKind(fakehub.KindBlob)) + s.hub.Count(fakehub.OfKind(fakehub.KindCDN))
}

// TestTierNewBoxIsWarm has an image pulled, its box lost, and the image pulled from a new one: the registry is asked for manifests and for
// no blob. One layer is written in parts.
func TestTierNewBoxIsWarm(t *testing.T) {
	need(t)
	c := clientNamed(t, "crane")
	big, huge := bigImage("library/big", layerSize), bigImage("library/huge", 70<<20)
	s := newSite(t, big, huge)
	g := s.startGateway(t)
	first := s.startHubcap(t, scratch(t), tierAt(s3Address)...)
	blobs := map[digest.Digest][]byte{}
	for _, i := range []*image{big, huge} {
		mustPull(t, c.start(t, s, mirror), i)
		for _, one := range i.pulled() {
			blobs[one.Digest] = i.blobs[one.Digest]
		}
	}
	waitUntil(t, "all is in the bucket", func() bool { return first.metric(t, "hubcap_tier_writes_total") == int64(len(blobs)) })
	for d, content := range blobs {
		if !bytes.Equal(g.object(d), content) {
			t.Errorf("the object of %s has %d bytes, want those of the blob", d, len(g.object(d)))
		}
	}
	first.terminate(t)

	s.hub.Reset()
	second := s.startHubcap(t, scratch(t), tierAt(s3Address)...)
	for _, i := range []*image{big, huge} {
		mustPull(t, c.start(t, s, mirror), i)
	}
	if n := s.blobsAsked(); n != 0 {
		t.Errorf("the registry was asked %d times for blobs that the bucket has:\n%s", n, describe(s.hub.Log()))
	}
	waitUntil(t, "the queue is empty", func() bool { return second.metric(t, "hubcap_tier_queue") == 0 })
	if n := second.metric(t, "hubcap_tier_writes_total"); n != 0 {
		t.Errorf("%d blobs of the bucket were to be written to it", n)
	}
	s.assertNoBypass(t)
}

// TestTierGetsWhatWasHeld has a box pull images before there is a bucket: it writes them once there is one, and a new box pulls them from
// there.
func TestTierGetsWhatWasHeld(t *testing.T) {
	need(t)
	c := clientNamed(t, "crane")
	big, huge := bigImage("library/big", layerSize), bigImage("library/huge", 70<<20)
	s := newSite(t, big, huge)
	g := s.startGateway(t)
	dir := scratch(t)
	before := s.startHubcap(t, dir)
	blobs := 0
	for _, i := range []*image{big, huge} {
		mustPull(t, c.start(t, s, mirror), i)
		blobs += len(i.pulled())
	}
	before.terminate(t)
	after := s.startHubcap(t, dir, tierAt(s3Address)...)
	waitUntil(t, "all is in the bucket", func() bool { return after.metric(t, "hubcap_tier_writes_total") == int64(blobs) })
	for _, i := range []*image{big, huge} {
		for _, one := range i.pulled() {
			if !bytes.Equal(g.object(one.Digest), i.blobs[one.Digest]) {
				t.Errorf("the object of %s is not the blob", one.Digest)
			}
		}
	}
	after.wantLog(t, fmt.Sprintf("blobs=%d", blobs))
	after.terminate(t)
	again := s.startHubcap(t, dir, tierAt(s3Address)...)
	waitUntil(t, "it is compared", func() bool { n, known := again.known(t, "hubcap_tier_missing"); return known && n == 0 })
	if n := again.metric(t, "hubcap_tier_writes_total"); n != 0 {
		t.Errorf("%d blobs of the bucket were written to it", n)
	}
	again.terminate(t)

	s.hub.Reset()
	fresh := s.startHubcap(t, scratch(t), tierAt(s3Address)...)
	for _, i := range []*image{big, huge} {
		mustPull(t, c.start(t, s, mirror), i)
	}
	if n := s.blobsAsked(); n != 0 {
		t.Errorf("the registry was asked %d times for blobs that the bucket has:\n%s", n, describe(s.hub.Log()))
	}
	fresh.terminate(t)
	s.assertNoBypass(t)
}

// line is a way to the gateway that lets some bytes of answers through, and the rest once it is opened.
type line struct {
	mu      sync.Mutex
	left    int
	arrived chan struct{} // closed when nothing is left
	open    chan struct{}
	net.Listener
}

func newLine(t *testing.T, ns *namespace, address string, bytes int) *line {
	t.Helper()
	l := &line{left: bytes, arrived: make(chan struct{}), open: make(chan struct{})}
	listener, err := ns.listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	l.Listener = listener
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := ns.dial(t.Context(), "tcp", s3Address)
			if err != nil {
				_ = in.Close()
				continue
			}
			go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
			go func() { l.carry(in, out); _ = in.Close() }()
		}
	}()
	return l
}

// carry carries answers.
func (l *line) carry(to io.Writer, from io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		l.mu.Lock()
		if had := l.left; had > 0 && had <= n {
			close(l.arrived)
		}
		l.left -= n
		wait := l.left <= 0
		l.mu.Unlock()
		if wait {
			<-l.open
		}
		if _, failed := to.Write(buf[:n]); failed != nil || err != nil {
			return
		}
	}
}

// TestTierGatewayKilled kills the S3 server when a part of a layer has come from it. The client does not notice: the rest comes from the
// registry.
func TestTierGatewayKilled(t *testing.T) {
	need(t)
	big, other := bigImage("library/big", layerSize), bigImage("library/other", 1<<20)
	layer := big.pulled()[1]
	s := newSite(t, big, other)
	g := s.startGateway(t)
	first := s.startHubcap(t, scratch(t), tierAt(s3Address)...)
	if got := digestOf(t, first.get(t, blobPath(big, layer.Digest)), nil); got != layer.Digest {
		t.Fatal(got)
	}
	waitUntil(t, "it is in the bucket", func() bool { return g.object(layer.Digest) != nil && first.metric(t, "hubcap_tier_writes_total") == 1 })
	first.terminate(t)
	s.hub.Reset()

	const narrow = "127.0.0.1:7071"
	l := newLine(t, s.ns, narrow, halfWay)
	h := s.startHubcap(t, scratch(t), tierAt(narrow)...)
	answer := h.get(t, blobPath(big, layer.Digest))
	<-l.arrived
	if n := s.blobsAsked(); n != 0 {
		t.Errorf("the registry was asked %d times for blobs before", n)
	}
	g.kill()
	_ = l.Close() // nobody listens any more
	close(l.open)
	if got := digestOf(t, answer, nil); got != layer.Digest {
		t.Errorf("the layer is %s, want %s", got, layer.Digest)
	}
	sent := s.hub.BytesSent(layer.Digest)
	if sent == 0 || sent > layerSize*3/4 {
		t.Errorf("%d bytes of %d came from the registry, of which about half were in the bucket", sent, layerSize)
	}
	begun := time.Now()
	if got := digestOf(t, h.get(t, blobPath(other, other.pulled()[1].Digest)), nil); got != other.pulled()[1].Digest {
		t.Error(got)
	}
	t.Logf("%d of %d bytes came from the registry; the next blob took %s", sent, layerSize, time.Since(begun))
	h.wantLog(t, "the bucket of the S3 tier is not asked for a while")
}

// wantLog fails unless the log has a line with the text.
func (h *hubcap) wantLog(t *testing.T, text string) {
	t.Helper()
	waitUntil(t, "the log says: "+text, func() bool { return strings.Contains(h.log.String(), text) })
}

// TestTierSilent stops the S3 server, which then takes connections and answers nothing: the first pull waits for it for two seconds, and
// none after it. It is asked again once it answers.
func TestTierSilent(t *testing.T) {
	need(t)
	images := []*image{}
	for i := range 5 {
		images = append(images, bigImage(fmt.Sprintf("library/silent%d", i), 1<<20+i))
	}
	s := newSite(t, images...)
	g := s.startGateway(t)
	h := s.startHubcap(t, scratch(t), tierAt(s3Address)...)
	h.wantLog(t, "S3 tier")
	pull := func(i *image) time.Duration {
		begun, d := time.Now(), i.pulled()[1].Digest
		if got := digestOf(t, h.get(t, blobPath(i, d)), nil); got != d {
			t.Errorf("the layer is %s, want %s", got, d)
		}
		return time.Since(begun)
	}
	calm := pull(images[0])
	g.signal(syscall.SIGSTOP)
	first, second, third := pull(images[1]), pull(images[2]), pull(images[3])
	t.Logf("calm %s, silent %s, then %s and %s", calm, first, second, third)
	if first > 2500*time.Millisecond+calm || min(second, third) > time.Second+calm {
		t.Error("a silent bucket is waited for too long")
	}
	if h.metric(t, "hubcap_tier_circuit_open") != 1 {
		t.Error("the circuit is not open")
	}
	g.signal(syscall.SIGCONT)
	waitUntil(t, "it is asked again", func() bool { return h.metric(t, "hubcap_tier_circuit_open") == 0 })
	pull(images[4])
	waitUntil(t, "all is in the bucket", func() bool { return h.metric(t, "hubcap_tier_writes_total") == 5 })
}

// TestTierRefuses: keys that the S3 server does not know, and a bucket that it does not have, each give one clear line, and pulls go on.
func TestTierRefuses(t *testing.T) {
	need(t)
	c := clientNamed(t, "crane")
	big := bigImage("library/big", 1<<20)
	s := newSite(t, big)
	s.startGateway(t)
	for _, tc := range []struct{ setting, says string }{
		{"HUBCAP_S3_SECRET_KEY=wrong", "HUBCAP_S3_SECRET_KEY (403 SignatureDoesNotMatch)"},
		{"HUBCAP_S3_ACCESS_KEY=wrong", "HUBCAP_S3_ACCESS_KEY (404 XAdminUserNotFound)"},
		{"HUBCAP_S3_URL=http://" + s3Address + "/absent", "the bucket does not exist"},
		{"HUBCAP_S3_REGION=eu-central-1", "HUBCAP_S3_REGION"},
	} {
		h := s.startHubcap(t, scratch(t), tierAt(s3Address, tc.setting)...)
		h.wantLog(t, tc.says)
		mustPull(t, c.start(t, s, mirror), big)
		h.wantLog(t, "id=tier-fails")
		if n := strings.Count(h.log.String(), "is not asked for a while"); n != 1 {
			t.Errorf("%s: %d lines, want one", tc.setting, n)
		}
		if h.metric(t, "hubcap_tier_circuit_open") != 1 || h.status("/readyz") != http.StatusOK {
			t.Errorf("%s: the circuit is not open, or the box not ready", tc.setting)
		}
		h.terminate(t)
	}
	s.assertNoBypass(t)
}

// TestTierReadOnly: a box with HUBCAP_S3_WRITE=false takes from the bucket and gives nothing to it.
func TestTierReadOnly(t *testing.T) {
	need(t)
	c := clientNamed(t, "crane")
	big, other := bigImage("library/big", 1<<20), bigImage("library/other", 1<<20+1)
	s := newSite(t, big, other)
	g := s.startGateway(t)
	first := s.startHubcap(t, scratch(t), tierAt(s3Address)...)
	mustPull(t, c.start(t, s, mirror), big)
	waitUntil(t, "all is in the bucket", func() bool { return first.metric(t, "hubcap_tier_writes_total") == int64(len(big.pulled())) })
	first.terminate(t)
	s.hub.Reset()

	h := s.startHubcap(t, scratch(t), tierAt(s3Address, "HUBCAP_S3_WRITE=false")...)
	mustPull(t, c.start(t, s, mirror), big)
	if n := s.blobsAsked(); n != 0 {
		t.Errorf("the registry was asked %d times for blobs", n)
	}
	mustPull(t, c.start(t, s, mirror), other)
	h.terminate(t)
	if layer := other.pulled()[1].Digest; g.object(layer) != nil {
		t.Error("something was written")
	}
	s.assertNoBypass(t)
}
