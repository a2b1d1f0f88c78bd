package crash

import (
	"bufio"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hubcap/e2e/testkit"
)

// box is one running hubcap. It listens where the system lets it, and says in its log where that is.
type box struct {
	cmd    *exec.Cmd
	log    testkit.Log
	done   chan struct{} // closed when it has ended; cmd.ProcessState is set by then
	ready  time.Time
	mirror string // address
	admin  string // address
	client *http.Client
}

// readyLine is what hubcap logs once it listens.
var readyLine = regexp.MustCompile(`msg=ready mirror=(\S+) admin=(\S+)`)

// spawn starts hubcap and does not wait for it.
func (s *site) spawn(t testing.TB, dataDir string) *box {
	t.Helper()
	b := &box{cmd: exec.Command(s.binary), done: make(chan struct{})}
	b.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	b.cmd.Env = append(s.settings(), "HUBCAP_DATA_DIR="+dataDir)
	b.cmd.Stdout, b.cmd.Stderr = &b.log, &b.log
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = b.cmd.Wait()
		close(b.done)
	}()
	return b
}

// start starts hubcap, which has to come up at the first try.
func (s *site) start(t testing.TB, dataDir string) *box {
	t.Helper()
	b, _ := s.supervise(t, dataDir, 1)
	if b == nil {
		t.Fatal("hubcap does not start")
	}
	return b
}

// supervise starts hubcap as a service manager would: again when it ends, at most so many times. It returns nil after that, and how
// many tries it took.
func (s *site) supervise(t testing.TB, dataDir string, most int) (b *box, tries int) {
	t.Helper()
	for tries = 1; tries <= most; tries++ {
		b := s.spawn(t, dataDir)
		if b.waitReady(t) {
			s.register(t, b)
			return b, tries
		}
		s.lastWords = b.log.Bytes()
		t.Logf("start %d ended with %v:\n%s", tries, b.cmd.ProcessState, tail(s.lastWords))
	}
	return nil, tries
}

// register makes b the site's box, which ends with the test.
func (s *site) register(t testing.TB, b *box) {
	s.box = b
	t.Cleanup(func() {
		b.kill()
		if t.Failed() && s.box == b {
			t.Logf("log of the last hubcap:\n%s", tail(b.log.Bytes()))
		}
	})
}

// waitReady waits until hubcap serves; false when it ended instead.
func (b *box) waitReady(t testing.TB) bool {
	t.Helper()
	waitUntil(t, "hubcap is ready", func() bool { return b.ended() || b.listens() })
	if b.mirror == "" {
		return false
	}
	waitUntil(t, "hubcap answers", func() bool { return b.ended() || b.status("/readyz") == http.StatusOK })
	b.ready = time.Now()
	return !b.ended()
}

// listens tells whether hubcap has said where it listens.
func (b *box) listens() bool {
	at := readyLine.FindSubmatch(b.log.Bytes())
	if at == nil {
		return false
	}
	b.mirror, b.admin = string(at[1]), string(at[2])
	return true
}

// status is the status of an answer, 0 if there is none.
func (b *box) status(path string) int {
	response, err := b.client.Get("http://" + b.mirror + path)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	return response.StatusCode
}

func (b *box) ended() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

// kill is kill -9. It returns when the process is no more.
func (b *box) kill() {
	if !b.ended() {
		_ = b.cmd.Process.Kill()
	}
	<-b.done
	b.client.CloseIdleConnections()
}

// stop ends hubcap in the ordinary way.
func (b *box) stop(t testing.TB) {
	t.Helper()
	_ = b.cmd.Process.Signal(syscall.SIGTERM)
	waitUntil(t, "hubcap ends", b.ended)
	b.client.CloseIdleConnections()
	if code := b.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("hubcap ended with %d, want 0", code)
	}
}

// assertAlive fails if hubcap has ended by itself.
func (b *box) assertAlive(t testing.TB) {
	t.Helper()
	if b.ended() {
		t.Fatalf("hubcap has ended by itself: %v\n%s", b.cmd.ProcessState, tail(b.log.Bytes()))
	}
}

// metrics is one scrape, by series.
type metrics map[string]int64

// scrape reads hubcap's metrics; nil when it does not answer.
func (b *box) scrape() metrics {
	response, err := b.client.Get("http://" + b.admin + "/metrics")
	if err != nil {
		return nil
	}
	defer response.Body.Close()
	all := metrics{}
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		series, value, _ := strings.Cut(lines.Text(), " ")
		if number, err := strconv.ParseFloat(value, 64); err == nil && strings.HasPrefix(series, "hubcap_") {
			all[series] = int64(number)
		}
	}
	return all
}

// sum adds up a metric over its labels, without the series of that name that are named.
func (m metrics) sum(name string, without ...string) (sum int64) {
	for series, value := range m {
		if label, _, _ := strings.Cut(series, "{"); label == name {
			sum += value
		}
	}
	for _, series := range without {
		sum -= m[name+series]
	}
	return sum
}

// death is the first line of what Go's runtime writes when it ends a process.
var death = regexp.MustCompile(`(?m)^(fatal error|panic|unexpected fault|SIG[A-Z]+):? .*$`)

// tail returns the end of a log, or of one that tells of a death, what begins there.
func tail(log []byte) []byte {
	const most = 4 << 10
	if at := death.FindIndex(log); at != nil {
		return log[at[0]:min(len(log), at[0]+most)]
	}
	return log[max(0, len(log)-most):]
}
