package server

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hubcap/e2e/fakehub"
)

// notifySocket is a socket as systemd gives one to a service of Type=notify. The
// channel has what arrives there, one message at a time.
func notifySocket(t *testing.T) <-chan string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd-") // the path of a socket must fit in 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	address := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	messages := make(chan string, 1000)
	go func() {
		defer close(messages)
		buffer := make([]byte, 4096)
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			messages <- string(buffer[:n])
		}
	}()
	t.Cleanup(func() { conn.Close(); os.RemoveAll(dir) })
	t.Setenv("NOTIFY_SOCKET", address)
	return messages
}

// next returns the next message that has a line.
func next(t *testing.T, messages <-chan string, line string) {
	t.Helper()
	for {
		select {
		case message := <-messages:
			if slices.Contains(strings.Split(message, "\n"), line) {
				return
			}
		case <-time.After(soon):
			t.Fatalf("systemd does not get %s", line)
		}
	}
}

func TestSystemdIsNotified(t *testing.T) {
	messages := notifySocket(t)
	t.Setenv("WATCHDOG_USEC", "300000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	b := start(t)
	next(t, messages, "READY=1")
	next(t, messages, "WATCHDOG=1")
	next(t, messages, "WATCHDOG=1")
	b.cancel()
	next(t, messages, "STOPPING=1")
	if err := b.wait(); err != nil {
		t.Error(err)
	}
}

// A unit without WatchdogSec, or a parent process that is watched itself.
func TestWatchdogOfNobody(t *testing.T) {
	messages := notifySocket(t)
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", "1")
	b := start(t)
	next(t, messages, "READY=1")
	time.Sleep(100 * time.Millisecond)
	b.cancel()
	if message := <-messages; !strings.HasPrefix(message, "STOPPING=1") {
		t.Errorf("after READY=1 systemd gets %q", message)
	}
}

// TestWatchdogOfABusyBox takes every place for connections of clients: the
// question has to wait, and hubcap is not to be killed for that.
func TestWatchdogOfABusyBox(t *testing.T) {
	messages := notifySocket(t)
	t.Setenv("WATCHDOG_USEC", "300000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	hub := fakehub.Start(t, fakehub.Options{})
	layer := hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1<<20)).Layers[0].Digest
	hub.Script(fakehub.Always(&fakehub.Fault{StallAt: fakehub.At(1000)}, fakehub.OfKind(fakehub.KindCDN)))
	b := start(t, append(behind(t, hub), "HUBCAP_MAX_CONNECTIONS=32", "HUBCAP_MAX_CONNECTIONS_PER_CLIENT=32")...)
	next(t, messages, "READY=1")
	for range 32 {
		b.download(layer)
	}
	for len(messages) > 0 {
		<-messages
	}
	next(t, messages, "WATCHDOG=1")
	next(t, messages, "WATCHDOG=1")
	if b.line("one address has reached its limit of connections, and further ones wait; HUBCAP_MAX_CONNECTIONS and HUBCAP_MAX_CONNECTIONS_PER_CLIENT allow more, HUBCAP_TRUSTED_PROXIES names proxies") == nil &&
		b.line("the limit of connections is reached, and new ones wait; HUBCAP_MAX_CONNECTIONS allows more") == nil {
		t.Error("the question did not have to wait")
	}
}

// TestWatchdogOfADeadBox has hubcap answer, then hang, then answer again.
func TestWatchdogOfADeadBox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			mu    sync.Mutex
			told  []string
			hangs bool
		)
		v := supervision{
			alive: func(ctx context.Context) error {
				mu.Lock()
				hangs := hangs
				mu.Unlock()
				if hangs {
					<-ctx.Done()
				}
				return ctx.Err()
			},
			notify: func(state string) error {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, strings.Split(state, "\n")[0])
				return nil
			},
			watchdog: 30 * time.Second,
			log:      slog.New(slog.DiscardHandler),
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); v.run(ctx) }()
		for _, step := range []struct {
			hangs bool
			want  []string
		}{
			{true, nil},
			{false, []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1"}},
			{true, nil},
			{false, []string{"WATCHDOG=1", "WATCHDOG=1"}},
		} {
			mu.Lock()
			hangs, told = step.hangs, nil
			mu.Unlock()
			time.Sleep(40 * time.Second)
			synctest.Wait()
			mu.Lock()
			if n := len(step.want); len(told) < n || len(told) > n+4 || !slices.Equal(told[:n], step.want) || n == 0 && len(told) > 0 {
				t.Errorf("hangs %v: systemd gets %q, want %q", step.hangs, told, step.want)
			}
			mu.Unlock()
		}
		cancel()
		<-ended
	})
}

// Without systemd nothing is asked and nothing is written.
func TestWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	b := start(t)
	b.cancel()
	if err := b.wait(); err != nil || strings.Contains(b.log.String(), "systemd") {
		t.Errorf("%v\n%s", err, b.log)
	}
}
