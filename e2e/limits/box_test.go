package limits

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
)

// box is a hubcap in front of a stand-in for Docker Hub.
type box struct {
	hub    *fakehub.Hub
	cmd    *exec.Cmd
	log    testkit.Log
	done   chan struct{} // closed when it has ended
	mirror string        // address
	admin  string        // address
}

// readyLine is what hubcap logs once it listens.
var readyLine = regexp.MustCompile(`"?msg"?[=:]"?ready"?[ ,]"?mirror"?[=:]"?([\d.:]+)"?[ ,]"?admin"?[=:]"?([\d.:]+)`)

// start starts hubcap from a shell that does something before, such as ulimit, and waits until it is ready.
func start(t *testing.T, before string, settings ...string) *box {
	t.Helper()
	b := newBox(t, before, settings...)
	b.cmd.Stdout, b.cmd.Stderr = &b.log, &b.log
	b.launch(t)
	return b
}

// newBox is a hubcap that start would start.
func newBox(t *testing.T, before string, settings ...string) *box {
	t.Helper()
	b := &box{hub: fakehub.Start(t, fakehub.Options{}), done: make(chan struct{})}
	token, err := url.Parse(b.hub.TokenURL())
	if err != nil {
		t.Fatal(err)
	}
	b.cmd = exec.Command("/bin/sh", "-c", before+`; exec "$0"`, testkit.Hubcap(t, "../.."))
	b.cmd.Env = append([]string{
		"HUBCAP_LISTEN=127.0.0.1:0", "HUBCAP_ADMIN_LISTEN=127.0.0.1:0", "HUBCAP_DATA_DIR=" + t.TempDir(),
		"HUBCAP_CACHE_SIZE=2GiB", "HUBCAP_MIN_FREE=1MiB", "HUBCAP_LOG_LEVEL=info",
		"HUBCAP_UPSTREAM_0_HOST=docker.io", "HUBCAP_UPSTREAM_0_URL=" + b.hub.RegistryURL(),
		"HUBCAP_UPSTREAM_0_TOKEN_HOSTS=" + token.Host, "HUBCAP_UPSTREAM_0_PRIVATE_CIDRS=127.0.0.0/8",
	}, settings...)
	return b
}

// launch starts the process and waits until it is ready.
func (b *box) launch(t *testing.T) {
	t.Helper()
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = b.cmd.Wait()
		close(b.done)
	}()
	t.Cleanup(func() {
		_ = b.cmd.Process.Kill()
		<-b.done
		if t.Failed() {
			log := b.log.Bytes()
			t.Logf("the end of its log:\n%s", log[max(0, len(log)-4<<10):])
		}
	})
	eventually(t, "hubcap is ready", func() bool {
		b.assertAlive(t)
		at := readyLine.FindSubmatch(b.log.Bytes())
		if at != nil {
			b.mirror, b.admin = string(at[1]), string(at[2])
		}
		return at != nil
	})
}

// assertAlive fails if hubcap has ended.
func (b *box) assertAlive(t *testing.T) {
	t.Helper()
	select {
	case <-b.done:
		t.Fatalf("hubcap has ended: %v", b.cmd.ProcessState)
	default:
	}
}

// metric adds up the series of a metric that have all the labels, such as limit="total".
func (b *box) metric(t *testing.T, name string, labels ...string) (sum int) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + b.admin + "/metrics")
	if err != nil {
		return -1 // there may be no descriptor for the operator either
	}
	defer response.Body.Close()
scan:
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		series, value, _ := strings.Cut(lines.Text(), " ")
		if plain, _, _ := strings.Cut(series, "{"); plain != name {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(series, label) {
				continue scan
			}
		}
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += int(number)
	}
	return sum
}

// dialer makes connections from one of the addresses of loopback, as the client with that number.
func dialer(client int) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+client%250))}}
}

// client pulls over connections of its own, from the address with that number.
func client(number int) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: dialer(number).DialContext, DisableKeepAlives: true,
	}}
}

// get is the digest of a whole answer, or why there is none.
func (b *box) get(ctx context.Context, c *http.Client, path string) (digest.Digest, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.mirror+path, nil)
	if err != nil {
		return "", err
	}
	response, err := c.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("answered %s", response.Status)
	}
	sum := digest.Canonical.Digester()
	if _, err := io.Copy(sum.Hash(), response.Body); err != nil {
		return "", err
	}
	return sum.Digest(), nil
}

// pull gets all of the image v1 of a repository, and verifies it.
func (b *box) pull(ctx context.Context, c *http.Client, repository string, image fakehub.Image) error {
	if err := b.want(ctx, c, "/v2/"+repository+"/manifests/v1", image.Manifest.Digest); err != nil {
		return err
	}
	for _, one := range append(slices.Clip(image.Layers), image.Config) { // the image is shared
		if err := b.want(ctx, c, "/v2/"+repository+"/blobs/"+one.Digest.String(), one.Digest); err != nil {
			return err
		}
	}
	return nil
}

func (b *box) want(ctx context.Context, c *http.Client, path string, d digest.Digest) error {
	got, err := b.get(ctx, c, path)
	if err == nil && got != d {
		err = fmt.Errorf("it hashes to %s", got)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// settle waits until what was pulled is in files.
func (b *box) settle(t *testing.T) {
	t.Helper()
	eventually(t, "the fills end", func() bool { return b.metric(t, "hubcap_fills_running") == 0 })
}
