package crash

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	settle   = 20 * time.Second // after a start, until the account is right
	block    = 4096             // bytes that hubcap counts at least, and file systems hand out at most, for a file
	slack    = 4 * block        // a file: its own blocks' rounding, and what the file system keeps about it
	smallest = 1 << 20          // bytes; what lies beside blobs and partials is below it
)

// blobName and partialName are what may lie below blobs/ and partial/. A download may have its span map beside it.
var (
	blobName    = regexp.MustCompile(`^blobs/(?:open|closed)/([a-z0-9]+)/([0-9a-f]{2})/([0-9a-f]+)$`)
	partialName = regexp.MustCompile(`^partial/(?:sha256-[0-9a-f]{64}|sha512-[0-9a-f]{128})[^/]*$`)
)

// inventory is what lies in a data directory; the index is not in it.
type inventory struct {
	blobs   []string // paths, from the data directory
	counted int64    // bytes of the blobs as hubcap counts them: in whole blocks
	files   int      // of blobs and partials
	used    int64    // bytes that they take on disk
	strays  []string // what has no business there
}

// takeInventory looks at every file below dir. A file that comes or goes at this moment may be missing.
func takeInventory(dir string) (v inventory, err error) {
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if entry.IsDir() {
			if strings.HasPrefix(name, "index") || name == "lost+found" { // ext4's
				return fs.SkipDir
			}
			return nil
		}
		if info, err := entry.Info(); err == nil { // or it is gone
			v.add(name, info)
		}
		return nil
	})
	return v, err
}

func (v *inventory) add(name string, info fs.FileInfo) {
	used := info.Sys().(*syscall.Stat_t).Blocks * 512
	switch {
	case name == "admin.sock": // it goes with its process, and a killed one leaves it
	case !info.Mode().IsRegular():
		v.strays = append(v.strays, name)
	case digestOf(name) != "":
		v.blobs = append(v.blobs, name)
		v.counted += (info.Size() + block - 1) / block * block
		v.files++
		v.used += used
	case partialName.MatchString(name):
		v.files++
		v.used += used
	case name == "ballast":
	case strings.Contains(name, "/") || used >= smallest:
		v.strays = append(v.strays, fmt.Sprintf("%s (%d bytes)", name, used))
	}
}

// digestOf is the digest that a blob's path names, "" if it is no such path.
func digestOf(name string) digest.Digest {
	parts := blobName.FindStringSubmatch(name)
	if parts == nil {
		return ""
	}
	d := digest.NewDigestFromEncoded(digest.Algorithm(parts[1]), parts[3])
	if d.Validate() != nil || !strings.HasPrefix(parts[3], parts[2]) {
		return ""
	}
	return d
}

// wrongFiles are the blobs whose content is not what their name says.
func (v *inventory) wrongFiles(dir string) (wrong []string) {
	for _, name := range v.blobs {
		f, err := os.Open(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // evicted
		}
		if err != nil {
			wrong = append(wrong, err.Error())
			continue
		}
		d := digestOf(name)
		if got, err := d.Algorithm().FromReader(f); err != nil || got != d {
			wrong = append(wrong, fmt.Sprintf("%s has the content of %s, %v", name, got, err))
		}
		f.Close()
	}
	return wrong
}

// disagreements are what lies on disk and is not in hubcap's account, or the other way round.
func (v *inventory) disagreements(m metrics) (all []string) {
	if m == nil {
		return []string{"there are no metrics"}
	}
	complain := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if len(v.strays) > 0 {
		complain("strays: %s", strings.Join(v.strays, ", "))
	}
	if objects := m.sum("hubcap_cache_objects"); objects != int64(len(v.blobs)) {
		complain("%d blobs lie there and %d objects are counted", len(v.blobs), objects)
	}
	held := m[`hubcap_cache_bytes{what="small"}`] + m[`hubcap_cache_bytes{what="large"}`] + m[`hubcap_cache_bytes{what="pinned"}`]
	if held != v.counted {
		complain("the blobs have %d bytes and %d are counted", v.counted, held)
	}
	account := m.sum("hubcap_cache_bytes", `{what="index"}`)
	if room := account + int64(v.files)*slack; v.used > room {
		complain("%d bytes lie there in %d files and %d are counted", v.used, v.files, account)
	}
	if budget := m.sum("hubcap_cache_budget_bytes"); account > budget {
		complain("%d bytes are counted and the budget is %d", account, budget)
	}
	return all
}

// assertAccount fails unless everything in the data directory is what its name says and in the account of the running hubcap, which
// has a few seconds from its start for that. Nobody pulls meanwhile. dir is where the files can be read, whatever hubcap sees.
func (s *site) assertAccount(t testing.TB, dir string) {
	t.Helper()
	for {
		s.box.assertAlive(t)
		v, err := takeInventory(dir)
		if err != nil {
			t.Fatal(err)
		}
		wrong := v.disagreements(s.box.scrape())
		if len(wrong) == 0 {
			if wrong = v.wrongFiles(dir); len(wrong) == 0 {
				return
			}
		}
		if time.Since(s.box.ready) > settle {
			t.Errorf("the data directory is not in order %v after the start: %s", settle, strings.Join(wrong, "; "))
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// waitAccount is assertAccount for a hubcap that has run for long: it has as long as after a start.
func (s *site) waitAccount(t testing.TB, dir string) {
	t.Helper()
	s.box.ready = time.Now()
	s.assertAccount(t, dir)
}

// assertNoWrongFiles looks at a data directory that no hubcap runs on.
func assertNoWrongFiles(t testing.TB, dir string) {
	t.Helper()
	v, err := takeInventory(dir)
	if err != nil {
		t.Fatal(err)
	}
	if wrong := v.wrongFiles(dir); len(wrong) > 0 {
		t.Errorf("under a final name lies wrong content: %s", strings.Join(wrong, "; "))
	}
}

// holds tells whether there is a file of the blob.
func holds(dir string, b *blob) bool {
	_, err := os.Lstat(blobFile(dir, b))
	return err == nil
}

// blobFile is where hubcap keeps a blob.
func blobFile(dir string, b *blob) string {
	hash := b.digest.Encoded()
	return filepath.Join(dir, "blobs", "open", b.digest.Algorithm().String(), hash[:2], hash)
}
