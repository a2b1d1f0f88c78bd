package cache

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/testkit"
	"hubcap/eviction"
)

// modelSeed replays one sequence: go test -run TestModel -model.seed=N ./cache
var modelSeed = flag.Uint64("model.seed", 0, "of TestModel: the one sequence to run")

// The seeds that have found a fault before are run first.
var modelRegressions = []uint64{}

const (
	modelLimit = 40 * mib
	modelSteps = 120
)

// model is a cache that random steps are taken with, and what is known of it: the
// content of every digest, and which files were damaged without its knowledge.
type model struct {
	t      *testing.T
	random *rand.Rand
	rig    *rig
	dirs   int
	root   string
	now    atomic.Int64 // nanoseconds since 1970
	option func(*Options)

	things  []*thing
	trace   []string
	unknown bool        // where restricted content came from was lost
	passed  atomic.Bool // restricted content was streamed uncached, whatever its file is like
}

// thing is a blob or a manifest.
type thing struct {
	name       string
	body       []byte
	digest     digest.Digest
	manifest   bool
	restricted bool
	flipped    bool // behind the cache's back, which has to find out
	changed    bool // in its length or kind: the ledger does not know
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{t: t, random: rand.New(rand.NewPCG(seed, 1)), root: t.TempDir()}
	m.now.Store(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	for i := range 24 {
		one := &thing{name: fmt.Sprint("b", i), restricted: m.random.IntN(4) == 0}
		size := []int{0, 1, 3000, tail - 1, tail + 1, 300 * kib, 2 * mib, 10 * mib}[m.random.IntN(8)]
		if i%4 == 3 {
			one.name, one.manifest = fmt.Sprint("m", i), true
			one.body = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/x","n":%d}`, i)
		} else {
			one.body, _ = randomContent(uint64(2000+i), size)
		}
		one.digest = digest.FromBytes(one.body)
		if !slices.ContainsFunc(m.things, func(other *thing) bool { return other.digest == one.digest }) {
			m.things = append(m.things, one)
		}
	}
	connections, maxBlob := 1+3*m.random.IntN(2), []int64{modelLimit, 4 * mib}[m.random.IntN(2)]
	interval := []time.Duration{time.Second, 7 * 24 * time.Hour}[m.random.IntN(2)]
	m.option = func(o *Options) {
		o.Connections, o.MaxBlob, o.VerifyInterval = connections, maxBlob, interval
		o.Now = func() time.Time { return time.Unix(0, m.now.Load()) }
		o.Ledger = eviction.NewLedger(eviction.LedgerOptions{
			Limit: modelLimit, SmallSize: 4 * kib, SmallShare: 0.05, High: 1, Low: 0.9, Now: o.Now, Metrics: o.Metrics.Space,
		})
	}
	m.start(filepath.Join(m.root, "0"))
	return m
}

func (m *model) start(dir string) {
	m.rig = newRig(m.t, rigOptions{dir: dir, limit: modelLimit, change: m.option})
	m.rig.janitor.Wake()
	eventually(m.t, "the janitor knows the index", func() bool { return m.rig.o.Ledger.Status().Overhead > 0 })
}

// steps are what can happen; those that are listed more than once happen more often.
var steps = []struct {
	name string
	do   func(*model)
}{
	{"pull", (*model).pull}, {"pull", (*model).pull}, {"pull", (*model).pull}, {"pull", (*model).pull},
	{"range", (*model).part}, {"range", (*model).part},
	{"crowd", (*model).crowd},
	{"bad source", (*model).badSource}, {"bad source", (*model).badSource},
	{"stranger", (*model).stranger},
	{"prefetch", (*model).prefetch},
	{"damage", (*model).damage}, {"damage", (*model).damage},
	{"clock", (*model).jump},
	{"restart", (*model).restart},
	{"crash", (*model).crash},
	{"crash in mid-fill", (*model).crashInMidFill},
}

// run takes a number of steps and checks everything after each.
func (m *model) run(n int) {
	defer func() {
		if m.t.Failed() {
			m.t.Logf("the last steps:\n%s\nlog:\n%s", strings.Join(m.trace[max(len(m.trace)-15, 0):], "\n"), m.rig.log)
		}
		m.rig.stop()
	}()
	for range n {
		step := steps[m.random.IntN(len(steps))]
		m.note("%s", step.name)
		step.do(m)
		m.check()
		if m.t.Failed() {
			return
		}
	}
}

func (m *model) note(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf(format, args...))
}

// check compares the ledger with the files, unless some of them were changed without
// the cache's knowledge.
func (m *model) check() {
	m.rig.settle()
	m.settleChecks()
	stats := m.rig.o.Ledger.Status()
	if total := stats.Used() - stats.Overhead; total > modelLimit {
		m.t.Errorf("%d bytes are counted, of %d", total, modelLimit)
	}
	if !slices.ContainsFunc(m.things, func(one *thing) bool { return one.changed }) {
		m.rig.checkLedger()
	}
}

// settleChecks waits for the verifications that run in the background.
func (m *model) settleChecks() {
	m.rig.trust.mu.Lock()
	running := make([]*check, 0, len(m.rig.trust.running))
	for _, one := range m.rig.trust.running {
		running = append(running, one)
	}
	m.rig.trust.mu.Unlock()
	for _, one := range running {
		_ = one.wait(m.t.Context())
	}
}

func (m *model) any() *thing {
	one := m.things[m.random.IntN(len(m.things))]
	m.note("  %s, %d bytes, restricted %v, flipped %v, changed %v", one.name, len(one.body), one.restricted, one.flipped, one.changed)
	return one
}

// want is what a client that may see it requests.
func (m *model) want(one *thing, src Source) Want {
	return Want{Digest: one.digest, Source: src, Size: -1, Host: home, Restricted: one.restricted, Granted: one.restricted}
}

// fetch reads a part of a blob as a client that may see it.
func (m *model) fetch(one *thing, src Source, off, n int64) ([]byte, error) {
	want := m.want(one, src)
	b, err := m.rig.Open(m.t.Context(), want)
	if errors.Is(err, ErrRestricted) && m.rig.Confirm(want) { // it went and came at this moment
		b, err = m.rig.Open(m.t.Context(), want)
	}
	past := errors.Is(err, ErrRestricted)
	if past {
		if !m.unknown {
			m.t.Errorf("%s is not shown to a client that may see it", one.name)
		}
		want.Size = int64(len(one.body))
		b, err = m.rig.Uncached(want), nil
	}
	if err != nil {
		return nil, err
	}
	defer b.Close()
	var c client
	if err = b.Send(m.t.Context(), &c, off, n); past {
		m.passed.Store(true)
	}
	if err == nil && past && (n < 0 || off+n == int64(len(one.body))) {
		m.rig.Proved(want)
	}
	return c.Bytes(), err
}

// pull reads a blob from a source without faults.
func (m *model) pull() { m.pullOne(m.any()) }

func (m *model) pullOne(one *thing) {
	if one.manifest {
		m.putManifest(one)
		return
	}
	held, src := m.rig.o.Ledger.Holds(one.digest), &origin{body: one.body}
	m.passed.Store(false)
	got, err := m.fetch(one, src, 0, -1)
	if err != nil && one.flipped { // cut, once
		m.repaired(one)
		src = &origin{body: one.body}
		held = false
		m.rig.settle()
		got, err = m.fetch(one, src, 0, -1)
	}
	if err != nil || !bytes.Equal(got, one.body) {
		m.t.Errorf("%s: %d bytes, %v", one.name, len(got), err)
	}
	if held && !one.flipped && !one.changed && !m.unknown && src.opens.Load() > 0 {
		m.t.Errorf("%s was held, and the source was asked %d times", one.name, src.opens.Load())
	}
	if !m.passed.Load() {
		m.repaired(one)
	}
}

func (m *model) repaired(one *thing) { one.flipped, one.changed = false, false }

// putManifest stores a manifest and reads it back.
func (m *model) putManifest(one *thing) {
	done := make(chan struct{})
	m.rig.PutManifest(Manifest{Digest: one.digest, MediaType: "application/x", Body: one.body, Restricted: one.restricted, Host: home}, func() { close(done) })
	select {
	case <-done:
	case <-time.After(testkit.Patience):
		m.t.Errorf("%s is not stored", one.name)
	}
	m.readManifest(one)
}

func (m *model) readManifest(one *thing) {
	got, ok := m.rig.Manifest(one.digest)
	if ok && (!bytes.Equal(got.Body, one.body) || one.restricted && !got.Restricted) {
		m.t.Errorf("%s: %q, restricted %v", one.name, got.Body, got.Restricted)
	}
}

// part gets a span. One that ends before the tail of a damaged file may be
// wrong: its client verifies the whole.
func (m *model) part() {
	one := m.any()
	if one.manifest || len(one.body) == 0 {
		m.readManifest(one)
		return
	}
	off := m.random.Int64N(int64(len(one.body)))
	n := 1 + m.random.Int64N(int64(len(one.body))-off)
	m.note("  %d bytes from %d", n, off)
	got, err := m.fetch(one, &origin{body: one.body}, off, n)
	if one.flipped {
		m.settleChecks() // it is found now, if it was not before
		if err == nil && off+n == int64(len(one.body)) && !bytes.Equal(got, one.body[off:]) {
			m.t.Errorf("%s: a wrong end was given out", one.name)
		}
		return
	}
	if err != nil || !bytes.Equal(got, one.body[off:off+n]) {
		m.t.Errorf("%s: %d bytes, %v", one.name, len(got), err)
	}
}

// crowd is several readers of one blob at a time.
func (m *model) crowd() {
	one := m.any()
	if one.manifest || one.flipped || one.changed {
		return
	}
	src := &origin{body: one.body}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if got, err := m.fetch(one, src, 0, -1); err != nil || !bytes.Equal(got, one.body) {
				m.t.Errorf("%s: %d bytes, %v", one.name, len(got), err)
			}
		})
	}
	all.Wait()
}

// badSource reads a blob from a source that fails in some way: a complete response is
// right all the same.
func (m *model) badSource() {
	one := m.any()
	if one.manifest {
		return
	}
	wrong := slices.Clone(one.body)
	at := 0
	if len(wrong) > 0 {
		at = m.random.IntN(len(wrong))
		wrong[at] ^= 1
	}
	cut := func(err error) func(int64, int64, io.Reader) (io.Reader, error) {
		return func(_, off int64, in io.Reader) (io.Reader, error) {
			if int64(at) < off {
				return errReader{err}, nil
			}
			return io.MultiReader(io.LimitReader(in, int64(at)-off), errReader{err}), nil
		}
	}
	src := []*origin{
		{body: wrong},
		{body: append(slices.Clone(one.body), 1)},
		{body: one.body[:at]},
		{body: one.body, noRange: true},
		{body: one.body, unsized: true},
		{body: one.body, script: cut(permanent{io.ErrUnexpectedEOF})},
		{body: one.body, script: func(int64, int64, io.Reader) (io.Reader, error) { return nil, permanent{ErrSource} }},
	}[m.kind("source", 7)]
	got, err := m.fetch(one, src, 0, -1)
	if err == nil && !bytes.Equal(got, one.body) {
		m.t.Errorf("%s: %d wrong bytes were completed", one.name, len(got))
	}
	if one.flipped && err != nil || one.changed {
		m.rig.settle()
		if !m.rig.o.Ledger.Holds(one.digest) {
			m.repaired(one)
		}
	}
}

func (m *model) kind(of string, n int) int {
	k := m.random.IntN(n)
	m.note("  %s %d", of, k)
	return k
}

// stranger is a client that may see public content only.
func (m *model) stranger() {
	one := m.any()
	if one.manifest {
		return
	}
	src := &origin{body: one.body, script: func(int64, int64, io.Reader) (io.Reader, error) { return nil, permanent{ErrSource} }}
	for _, want := range []Want{
		{Digest: one.digest, Source: src, Size: -1, Host: abroad},
		{Digest: one.digest, Source: src, Size: -1, Host: abroad, Restricted: true, Granted: true},
	} {
		b, err := m.rig.Open(m.t.Context(), want)
		if err != nil {
			continue
		}
		var c client
		err = b.Send(m.t.Context(), &c, 0, -1)
		b.Close()
		if one.restricted && c.Len() > 0 {
			m.t.Errorf("%s: a stranger is given %d bytes, %v", one.name, c.Len(), err)
		}
		if err == nil && !bytes.Equal(c.Bytes(), one.body) {
			m.t.Errorf("%s: %d wrong bytes", one.name, c.Len())
		}
	}
	if one.flipped || one.changed {
		m.rig.settle()
		if !m.rig.o.Ledger.Holds(one.digest) {
			m.repaired(one)
		}
	}
}

func (m *model) prefetch() {
	one := m.any()
	if one.manifest {
		return
	}
	want := m.want(one, &origin{body: one.body})
	want.Size = int64(len(one.body))
	if _, err := m.rig.Fetch(m.t.Context(), want); err != nil {
		m.t.Errorf("%s: %v", one.name, err)
	}
}

// damage changes a file without the cache's knowledge.
func (m *model) damage() {
	one, kind := m.any(), m.kind("damage", 5)
	class := "open"
	if one.restricted {
		class = "closed"
	}
	name := filepath.Join(m.rig.dir, "blobs", class, "sha256", one.digest.Encoded()[:2], one.digest.Encoded())
	info, err := os.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 || one.changed {
		return
	}
	switch kind {
	case 0, 1:
		flipped := slices.Clone(one.body)
		flipped[m.random.IntN(len(flipped))] ^= 1
		if !one.flipped {
			m.must(os.WriteFile(name, flipped, 0o600))
			one.flipped = true
		}
		if m.random.IntN(2) == 0 {
			m.pullOne(one)
		}
		return
	case 2:
		m.must(os.Truncate(name, info.Size()-1))
	case 3:
		m.must(os.Remove(name))
	case 4:
		m.must(errors.Join(os.Remove(name), os.Symlink("/etc/passwd", name)))
	}
	one.changed = true
}

func (m *model) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Error(err)
	}
}

// jump sets the clock, which evicts nothing.
func (m *model) jump() {
	by := []time.Duration{24 * time.Hour, -24 * time.Hour, 3650 * 24 * time.Hour, -3650 * 24 * time.Hour, time.Minute}[m.kind("jump", 5)]
	for _, d := range m.rig.o.Ledger.Sweep() { // what the index has grown by
		m.rig.Remove(d)
	}
	before := m.held()
	m.now.Add(int64(by))
	m.rig.usage.flush(m.rig.Cache)
	if gone := m.rig.o.Ledger.Sweep(); len(gone) > 0 || !slices.Equal(before, m.held()) {
		m.t.Errorf("a jump by %v evicts %v", by, gone)
	}
}

func (m *model) held() []digest.Digest {
	var all []digest.Digest
	for o := range m.rig.o.Ledger.Objects() {
		if !o.Partial {
			all = append(all, o.Digest)
		}
	}
	slices.Sort(all)
	return all
}

func (m *model) restart() {
	m.rig.stop()
	m.hurtIndex()
	m.start(m.rig.dir)
	m.recovered()
}

// hurtIndex removes from a stopped cache what it can do without.
func (m *model) hurtIndex() {
	dir := m.rig.dir
	switch m.kind("index", 6) {
	case 0:
		m.must(os.RemoveAll(filepath.Join(dir, "index")))
	case 1:
		m.must(os.WriteFile(filepath.Join(dir, "index", "MANIFEST"), []byte("garbage"), 0o600))
	case 2:
		m.must(errors.Join(os.RemoveAll(filepath.Join(dir, "index")), os.RemoveAll(filepath.Join(dir, "snapshot"))))
		m.unknown = true
	}
}

// recovered notes what a start finds out by itself.
func (m *model) recovered() {
	for _, one := range m.things {
		if one.changed {
			one.changed = false
			one.flipped = one.flipped || m.rig.o.Ledger.Holds(one.digest) // shortened, and the index that knew is lost
		}
		if !m.rig.o.Ledger.Holds(one.digest) {
			one.flipped = false
		}
	}
}

// crash continues with a copy of the directory as it is now.
func (m *model) crash() {
	m.dirs++
	dir := filepath.Join(m.root, fmt.Sprint(m.dirs))
	if err := testkit.CopyDir(dir, m.rig.dir); err != nil && !strings.Contains(err.Error(), "No such file") { // one that goes at this moment
		m.t.Fatal(err)
	}
	m.die(dir)
}

// die ends the rig, whose directory is not used any more.
func (m *model) die(dir string) {
	old := m.rig
	old.stop()
	m.must(os.RemoveAll(old.dir))
	m.unknown = true // the last links may not have been on disk
	m.start(dir)
	m.recovered()
}

// crashInMidFill is crash while a fill has stopped somewhere.
func (m *model) crashInMidFill() {
	one := m.any()
	if one.manifest || len(one.body) == 0 || one.flipped || one.changed || m.rig.o.Ledger.Holds(one.digest) {
		return
	}
	at := m.random.IntN(len(one.body))
	halted, on := make(chan struct{}), make(chan struct{})
	halt := sync.OnceFunc(func() { close(halted) })
	src := &origin{body: one.body, script: func(_, _ int64, in io.Reader) (io.Reader, error) {
		wait := readerFunc(func([]byte) (int, error) { halt(); <-on; return 0, io.EOF })
		return io.MultiReader(io.LimitReader(in, int64(at)), wait, in), nil
	}}
	src.noRange = true // one writer, so that it halts in one place
	var answer sync.WaitGroup
	answer.Go(func() { _, _ = m.fetch(one, src, 0, -1) })
	<-halted
	m.dirs++
	dir := filepath.Join(m.root, fmt.Sprint(m.dirs))
	if err := testkit.CopyDir(dir, m.rig.dir); err != nil && !strings.Contains(err.Error(), "No such file") { // one that goes at this moment
		m.t.Fatal(err)
	}
	close(on)
	answer.Wait()
	m.die(dir)
}

// TestModel takes random steps with caches and compares them with a map.
// TEST_MODEL=<seeds> runs that many seeds instead of five, or one with -short.
func TestModel(t *testing.T) {
	t.Parallel()
	seeds := slices.Clone(modelRegressions)
	if *modelSeed != 0 {
		seeds = []uint64{*modelSeed}
	} else {
		quick := 5
		if testing.Short() {
			quick = 1
		}
		n := quick
		if _, err := fmt.Sscan(os.Getenv("TEST_MODEL"), &n); err != nil {
			n = quick
		}
		first := uint64(time.Now().UnixNano())
		for i := range n {
			seeds = append(seeds, first+uint64(i))
		}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("-model.seed=%d", seed), func(t *testing.T) { newModel(t, seed).run(modelSteps) })
	}
}

// TestModelReplays takes the same steps from the same seed.
func TestModelReplays(t *testing.T) {
	var traces [2][]string
	for i := range traces {
		m := newModel(t, 4711)
		m.run(40)
		traces[i] = m.trace
	}
	if !slices.Equal(traces[0], traces[1]) {
		t.Errorf("%q\n%q", traces[0], traces[1])
	}
}
