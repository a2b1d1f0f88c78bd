package limits

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
)

// reader reads hubcap's standard error into b.log for as long as it is allowed to.
type reader struct {
	pipe    *os.File
	reading sync.Mutex // held while nobody may read
	done    chan struct{}
}

// piped starts a hubcap whose standard error is a pipe.
func piped(t *testing.T, settings ...string) (*box, *reader) {
	t.Helper()
	b := newBox(t, "true", append(settings, "HUBCAP_LOG_FORMAT=json")...)
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	b.cmd.Stderr = to
	r := &reader{pipe: from, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for chunk := make([]byte, 4<<10); ; {
			n, err := from.Read(chunk)
			r.reading.Lock()
			_, _ = b.log.Write(chunk[:n])
			r.reading.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { _ = from.Close(); <-r.done })
	b.launch(t)
	_ = to.Close() // hubcap has its own
	return b, r
}

// manyLines has hubcap log so much that no pipe and no buffer holds it. Every request must be answered.
func (b *box) manyLines(t *testing.T, requests int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	one := &http.Client{Transport: &http.Transport{}}
	defer one.CloseIdleConnections()
	for i := range requests {
		if _, err := b.get(ctx, one, "/v2/"); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
	}
}

// end asks hubcap to end, and fails unless it does so in good order.
func (b *box) end(t *testing.T) {
	t.Helper()
	_ = b.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-b.done:
	case <-time.After(30 * time.Second):
		t.Fatal("SIGTERM does not end it")
	}
	if code := b.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("it ended with %v", b.cmd.ProcessState)
	}
}

// everyLine parses the log, which is JSON, and returns its lines. The last one may be on
// its way.
func (b *box) everyLine(t *testing.T) (all []map[string]any) {
	t.Helper()
	for text := range bytes.Lines(b.log.Bytes()) {
		if !bytes.HasSuffix(text, []byte("\n")) {
			break
		}
		var line map[string]any
		if err := json.Unmarshal(text, &line); err != nil {
			t.Errorf("%q is no line of the log: %v", text, err)
		}
		all = append(all, line)
	}
	return all
}

// TestLogThatNobodyReads fills a pipe: pulls go on, what was lost is counted and told, and SIGTERM ends the process.
func TestLogThatNobodyReads(t *testing.T) {
	b, r := piped(t, "HUBCAP_DRAIN_TIMEOUT=1s")
	image := b.hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 1<<20))

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r.reading.Lock()
	b.manyLines(t, 12_000)
	if err := b.pull(ctx, client(200), "library/demo", image); err != nil {
		t.Error(err)
	}
	lost := b.metric(t, "hubcap_log_lines_lost_total")
	if lost <= 0 {
		t.Errorf("%d lines were lost", lost)
	}
	r.reading.Unlock()

	eventually(t, "the log goes on, and tells of all lines that are counted as lost", func() bool {
		b.manyLines(t, 1)
		told := 0
		for _, line := range b.everyLine(t) {
			if n, ok := line["lines"].(float64); ok && line["msg"] == "lines of the log were lost" {
				told += int(n)
			}
		}
		return told == b.metric(t, "hubcap_log_lines_lost_total") && told >= lost
	})

	r.reading.Lock()
	defer r.reading.Unlock()
	b.manyLines(t, 12_000)
	b.end(t)
}

// TestLogWhoseReaderIsGone is SIGPIPE's case.
func TestLogWhoseReaderIsGone(t *testing.T) {
	b, r := piped(t, "HUBCAP_DRAIN_TIMEOUT=1s")
	_ = r.pipe.Close()
	<-r.done
	b.manyLines(t, 400)
	b.assertAlive(t)
	eventually(t, "the lines are counted", func() bool { return b.metric(t, "hubcap_log_lines_lost_total") >= 400 })
	b.end(t)
}

// TestEveryLineIsTheLogs has whatever could write to standard error do so: every line there is one of the log.
func TestEveryLineIsTheLogs(t *testing.T) {
	cert, key := pair(t)
	programs := helper(t)
	b, r := piped(t, "HUBCAP_LOG_LEVEL=debug", "HUBCAP_DRAIN_TIMEOUT=1s", "HUBCAP_LISTN=:1",
		"HUBCAP_TLS_CERT_FILE="+cert, "HUBCAP_TLS_KEY_FILE="+key,
		"HUBCAP_UPSTREAM_0_CREDENTIALS=docker-config", "DOCKER_CONFIG="+programs, "PATH="+programs+":"+os.Getenv("PATH"))
	b.hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 1000))
	say := func(secured bool, what string) {
		conn, err := net.Dial("tcp", b.mirror)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if secured {
			conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		}
		_, _ = io.WriteString(conn, what)
		_, _ = io.Copy(io.Discard, conn)
	}
	say(false, "no hello at all, and more of it\n")
	say(false, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
	say(false, "\x16\x03\x01\x00\x05hello")
	say(true, "NO HTTP\r\n\r\n")
	say(true, "GET /v2/ HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n")
	say(true, "GET /v2/library/../../etc HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: a=\x01\r\n\r\n")
	say(true, "GET /v2/library/demo/manifests/v1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	eventually(t, "the helper has said what it has to say", func() bool { return strings.Contains(string(b.log.Bytes()), "helper speaks") })
	b.end(t)
	<-r.done
	lines := b.everyLine(t)
	if last := lines[len(lines)-1]["msg"]; last != "stopped" || !bytes.HasSuffix(b.log.Bytes(), []byte("\n")) {
		t.Errorf("the last line is %v, want all that was logged", last)
	}
}

// TestFailedStartIsLogged has the reason of a start that fails in the log, in its format.
func TestFailedStartIsLogged(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, setting := range []string{"HUBCAP_TAG_TTL=60", "HUBCAP_LISTEN=" + taken.Addr().String()} {
		b := newBox(t, "true", setting, "HUBCAP_LOG_FORMAT=json")
		b.cmd.Stderr = &b.log
		if err := b.cmd.Run(); err == nil || b.cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("%s: %v, want exit code 1", setting, err)
		}
		lines := b.everyLine(t)
		last := lines[len(lines)-1]
		if text := fmt.Sprint(last["err"]); last["level"] != "ERROR" || !strings.HasPrefix(text, setting+": ") {
			t.Errorf("the last line is %v, want %s and what is wrong with it", last, setting)
		}
	}
}

// helper is a directory with docker's config.json and the helper program it names, which writes to standard error.
func helper(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"config.json":              `{"credsStore": "speaks"}`,
		"docker-credential-speaks": "#!/bin/sh\necho the helper speaks >&2\nexit 1\n",
	} {
		if err := os.WriteFile(dir+"/"+name, []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// pair is a certificate for nobody in particular, and its key.
func pair(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	cert, key, err := testkit.Certificate(nil)
	dir := t.TempDir()
	certFile, keyFile = dir+"/cert.pem", dir+"/key.pem"
	if err := errors.Join(err, os.WriteFile(certFile, cert, 0o600), os.WriteFile(keyFile, key, 0o600)); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile
}
