package doctor

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hubcap/cache/blobs"
	"hubcap/proxy/problems"
	"hubcap/proxy/server"
)

// box is a running hubcap, as its admin port shows it.
type box struct {
	metrics  []sample
	problems []problems.Problem
	unasked  error // why the problems are not known
}

// sample is one series of the metrics.
type sample struct {
	name   string
	labels string // as they were written
	value  float64
}

// running asks the admin port of the hubcap that runs with this configuration.
// Its token is shown only while the data directory is in use: otherwise another
// program may listen in hubcap's place.
func (d *doctor) running(ctx context.Context) {
	address, inUse := server.Local(string(d.config.AdminListen)), blobs.InUse(d.config.DataDir)
	base := "http://" + address
	if d.config.AdminCertFile != "" {
		base = "https://" + address
	}
	found, err := askMetrics(ctx, base)
	switch {
	case err == nil && inUse:
		d.box, d.report.Running = &box{metrics: found}, true
		d.box.problems, d.box.unasked = askProblems(ctx, base, filepath.Join(d.config.DataDir, "admin-token"))
		d.add("hubcap", OK, "runs, and its admin port "+address+" answers", "")
	case err == nil:
		d.add("hubcap", Warning, fmt.Sprintf("one answers at %s, and does not use the data directory %s", address, absolute(d.config.DataDir)), "give the doctor the settings of that hubcap")
	case inUse:
		d.add("hubcap", Failed, fmt.Sprintf("one uses the data directory, and its admin port %s does not answer: %v", address, withoutURL(err)), "look at its log; check that HUBCAP_ADMIN_LISTEN is that of the running hubcap")
	default:
		d.add("hubcap", OK, "does not run with these settings: what its start needs is checked", "")
	}
}

// askMetrics asks for the metrics. The error says that no hubcap answers there.
func askMetrics(ctx context.Context, base string) ([]sample, error) {
	resp, err := get(ctx, base+"/metrics", "")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	all, err := samples(resp.Body)
	if err == nil && (&box{metrics: all}).sum("hubcap_cache_budget_bytes") == 0 {
		err = errors.New("it is no hubcap")
	}
	return all, err
}

// askProblems asks for the list of problems, with the token of the data
// directory.
func askProblems(ctx context.Context, base, tokenFile string) ([]problems.Problem, error) {
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return nil, fmt.Errorf("the admin port's token cannot be read: %w", err)
	}
	resp, err := get(ctx, base+"/api/v1/problems", strings.TrimSpace(string(token)))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Problems []problems.Problem `json:"problems"`
	}
	return answer.Problems, json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&answer)
}

// Bounds of an answer of a port of this machine: something else may listen there.
const (
	maxAnswer     = 8 << 20 // bytes
	answersWithin = 5 * time.Second
)

// own asks ports of this machine: without a proxy, and without a check of the
// certificate, whose name may be another one.
var own = &http.Client{
	Timeout: answersWithin,
	Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// get asks a port of this machine. Another status than 200 is an error.
func get(ctx context.Context, address, token string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := own.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("%s: status %d", req.URL.Path, resp.StatusCode)
	}
	return resp, nil
}

// isHubcap reports whether what listens at a port is a hubcap.
func isHubcap(ctx context.Context, l server.Listener) bool {
	scheme := "http://"
	if l.TLS {
		scheme = "https://"
	}
	resp, err := get(ctx, scheme+server.Local(l.Address)+"/livez", "")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return strings.HasPrefix(resp.Header.Get("Cache-Status"), "hubcap")
}

// samples reads metrics in Prometheus' text format, as far as lines without a
// time go.
func samples(r io.Reader) (all []sample, err error) {
	lines := bufio.NewScanner(io.LimitReader(r, maxAnswer))
	for lines.Scan() {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || at < 0 {
			continue
		}
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			continue
		}
		name, labels, _ := strings.Cut(line[:at], "{")
		all = append(all, sample{name, labels, value})
	}
	if err := lines.Err(); err != nil && !errors.Is(err, bufio.ErrTooLong) {
		return nil, err
	}
	return all, nil
}

// sum adds up the series of a metric that have all the labels, each as it is
// written: `kind="blob"`.
func (b *box) sum(name string, labels ...string) (total float64) {
	for _, s := range b.metrics {
		matches := s.name == name
		for _, label := range labels {
			matches = matches && strings.Contains(s.labels, label)
		}
		if matches {
			total += s.value
		}
	}
	return total
}

// clients reports on the clients that have come.
func (d *doctor) clients() {
	if d.box == nil {
		return
	}
	pulls := d.box.sum("hubcap_requests_total", `kind="manifest"`) + d.box.sum("hubcap_requests_total", `kind="blob"`)
	if pulls == 0 {
		d.add("clients", Warning, "no client has come since the start", d.noClient())
		return
	}
	what := fmt.Sprintf("%.0f requests for manifests and blobs since the start", pulls)
	if n := d.box.sum("hubcap_clients", `window="1d"`); n > 0 {
		what += fmt.Sprintf("; clients in the last day: %.0f", n)
	}
	d.add("clients", OK, what, "")
}

// problems reports what the running hubcap knows to be wrong.
func (d *doctor) problems() {
	if d.box == nil {
		return
	}
	if d.box.unasked != nil {
		counted := d.box.sum("hubcap_problems", `severity="critical"`) + d.box.sum("hubcap_problems", `severity="warning"`)
		d.add("problem", Warning, fmt.Sprintf("the problems that hubcap knows (%.0f) cannot be listed: %v", counted, d.box.unasked), "run hubcap doctor as root")
		return
	}
	for _, p := range d.box.problems {
		state := Warning
		if p.Severity == problems.Critical {
			state = Failed
		}
		d.add("problem", state, fmt.Sprintf("%s, since %s: %s", p.What, p.Since.Local().Format("2006-01-02 15:04"), p.Impact), p.Do)
	}
	if len(d.box.problems) == 0 {
		d.add("problem", OK, "hubcap knows of none", "")
	}
}
