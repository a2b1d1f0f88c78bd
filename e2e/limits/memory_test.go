package limits

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
)

const memoryLimit = 256 << 20 // bytes

// cgroup is a group of version 1 with a limit of memory.
type cgroup string

// newCgroup makes a group below the one that this process is in.
func newCgroup(t *testing.T) cgroup {
	t.Helper()
	const root = "/sys/fs/cgroup/memory"
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		testkit.Unable(t, "%v", err)
	}
	path := regexp.MustCompile(`(?m)^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(.*)$`).FindSubmatch(own)
	if path == nil {
		testkit.Unable(t, "it has no memory groups of version 1")
	}
	dir := filepath.Join(root, string(path[1]))
	if _, err := os.Stat(dir); err != nil { // it is seen from outside
		dir = root
	}
	g := cgroup(filepath.Join(dir, fmt.Sprintf("hubcap-test-%d", os.Getpid())))
	if err := os.Mkdir(string(g), 0o755); err != nil {
		testkit.Unable(t, "memory groups of version 1: %v", err)
	}
	t.Cleanup(func() {
		eventually(t, "the group is empty", func() bool {
			err := os.Remove(string(g))
			return err == nil || errors.Is(err, os.ErrNotExist)
		})
	})
	if err := os.WriteFile(g.file("memory.limit_in_bytes"), []byte(strconv.Itoa(memoryLimit)), 0); err != nil {
		testkit.Unable(t, "the memory of a group cannot be limited: %v", err)
	}
	return g
}

func (g cgroup) file(name string) string { return filepath.Join(string(g), name) }

// read is the content of one of the group's files.
func (g cgroup) read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(g.file(name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// TestMemory has 500 clients at a time pull what is held and what is not, through a hubcap that has 256 MiB (F34); 100 with -short.
func TestMemory(t *testing.T) {
	const held = 3
	clients := number(500, 500)
	room(t, 4*clients)
	g := newCgroup(t)
	b := start(t, "echo $$ >"+g.file("cgroup.procs"))
	if log := string(b.log.Bytes()); !strings.Contains(log, "memory is limited by the cgroup") || !strings.Contains(log, fmt.Sprintf("cgroup_bytes=%d", memoryLimit)) {
		t.Errorf("the limit of the group is not known:\n%s", log)
	}
	layer := max(4<<20, number(4<<20, 8<<20))
	var images []fakehub.Image
	for i := range number(24, 60) {
		seed := uint64(100 + 10*i)
		images = append(images, b.hub.Image(repositoryOf(i), "v1", fakehub.RandomBlob(seed, layer), fakehub.RandomBlob(seed+1, 1<<20), fakehub.RandomBlob(seed+2, 1000)))
	}
	for i := range held {
		if err := b.pull(t.Context(), client(200), repositoryOf(i), images[i]); err != nil {
			t.Fatal(err)
		}
	}
	b.settle(t)

	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			n := i % len(images)
			if i%2 == 0 {
				n = i / 2 % held
			}
			if err := b.pull(t.Context(), client(i%100), repositoryOf(n), images[n]); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	all.Wait()
	b.assertAlive(t)
	kills := regexp.MustCompile(`(?m)^oom_kill (\d+)$`).FindStringSubmatch(g.read(t, "memory.oom_control"))
	if kills == nil {
		testkit.Unable(t, "the kernel does not count what it kills")
	}
	if kills[1] != "0" {
		t.Errorf("%s processes were killed for want of memory", kills[1])
	}
	most, err := strconv.Atoi(g.read(t, "memory.max_usage_in_bytes"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d clients; the group took %d MiB at most, cached files included; resident at the end: %d MiB", clients, most>>20, b.metric(t, "process_resident_memory_bytes")>>20)
}

func repositoryOf(image int) string { return fmt.Sprintf("library/image-%d", image) }
