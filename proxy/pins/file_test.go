package pins

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hubcap/proxy/reference"
)

// write replaces the pins file; it is read at the second look after that.
func (r *rig) write(text string) {
	r.t.Helper()
	if err := os.WriteFile(r.path+".new", []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(r.path+".new", r.path); err != nil {
		r.t.Fatal(err)
	}
	r.look()
	r.look()
}

func newFileRig(t *testing.T) (r *rig, images map[string]image) {
	r = newRig(t)
	r.path = filepath.Join(t.TempDir(), "pins")
	r.open()
	images = make(map[string]image)
	for _, name := range []string{"a", "b", "c"} {
		images[name] = r.pushImage(name, 20)
		r.hub["docker.io/library/"+name+":latest"] = images[name].digest
	}
	return r, images
}

// TestFile pins what the file says, and unpins what has left it.
func TestFile(t *testing.T) {
	r, images := newFileRig(t)
	r.write("# kept at every site\n\na  # the first\nb:latest platforms=linux/amd64,linux/arm64\n")
	if s := r.status("docker.io/library/a:latest"); s.State != Waiting || s.By != byFile {
		t.Errorf("%+v", s)
	}
	r.fetchDue()
	r.press()
	r.wantHeld(true, "a", images["a"].all()...)
	r.wantHeld(true, "b", images["b"].all()...)
	if s := r.status("docker.io/library/b:latest"); s.State != Held || !slices.Equal(s.Platforms, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("%+v", s)
	}
	for what, err := range map[string]error{
		"unpin": r.Unpin("a"), "pin": func() error { _, err := r.Pin(t.Context(), Request{Ref: "a"}, false); return err }(),
	} {
		if !errors.Is(err, ErrFromFile) || !strings.Contains(err.Error(), r.path) {
			t.Errorf("%s: %v", what, err)
		}
	}
	r.restart()
	r.press()
	r.wantHeld(true, "a, before the file is read again", images["a"].all()...)
	r.write("b platforms=linux/amd64\nc\n")
	r.fetchDue()
	r.press()
	r.wantHeld(false, "a", images["a"].layers...)
	r.wantHeld(true, "b", images["b"].all()...)
	r.wantHeld(true, "c", images["c"].all()...)
	if s := r.status("docker.io/library/b:latest"); !slices.Equal(s.Platforms, []string{"linux/amd64"}) {
		t.Errorf("%+v", s)
	}
	r.path = "" // HUBCAP_PINS_FILE is not set any more
	r.restart()
	if len(r.List()) != 0 || len(r.index.pins) != 0 {
		t.Errorf("%+v", r.List())
	}
}

// TestFileTakesOver a pin that was set otherwise.
func TestFileTakesOver(t *testing.T) {
	r, _ := newFileRig(t)
	r.mustPin("a")
	r.write("a\n")
	if s := r.status("docker.io/library/a:latest"); s.By != byFile || len(r.List()) != 1 {
		t.Errorf("%+v", r.List())
	}
	r.write("\n")
	if len(r.List()) != 0 {
		t.Errorf("%+v", r.List())
	}
}

// TestBadLines are told, and undo no others.
func TestBadLines(t *testing.T) {
	r, images := newFileRig(t)
	r.refused["acme/own"] = errors.New("each client pulls it with an account of its own")
	r.write("a\nNot!\nb platform=linux/amd64\nb platforms=\nb platforms=a/b/c/d\nacme/own\na:latest\nc\n")
	r.fetchDue()
	r.wantHeld(true, "a", images["a"].all()...)
	r.wantHeld(true, "c", images["c"].all()...)
	bad := r.Overview().File.Bad
	want := []string{"is no image reference", "is no option", "is no option", "is no platform", "account of its own", "in line 1 already"}
	if len(bad) != len(want) {
		t.Fatalf("%+v", bad)
	}
	for n, line := range bad {
		if line.Line != n+2 || !strings.Contains(line.Why, want[n]) {
			t.Errorf("%+v, want %q", line, want[n])
		}
	}
	if n := strings.Count(r.log.String(), "a line of the pins file cannot be used"); n != len(want) {
		t.Errorf("%d lines are logged", n)
	}
	r.look()
	if n := strings.Count(r.log.String(), "a line of the pins file cannot be used"); n != len(want) {
		t.Error("they are logged again although the file has not changed")
	}
}

// TestFileThatCannotBeRead: what it last said holds, across a restart too.
func TestFileThatCannotBeRead(t *testing.T) {
	r, images := newFileRig(t)
	r.write("a\n")
	r.fetchDue()
	for what, spoil := range map[string]func() error{
		"removed":   func() error { return os.Remove(r.path) },
		"directory": func() error { return errors.Join(os.RemoveAll(r.path), os.Mkdir(r.path, 0o700)) },
		"too large": func() error {
			return errors.Join(os.RemoveAll(r.path), os.WriteFile(r.path, make([]byte, maxFile+1), 0o600))
		},
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			r.look()
			r.look()
			r.press()
			r.wantHeld(true, what, images["a"].all()...)
			if o := r.Overview(); o.File.Err == "" || o.Pins != 1 {
				t.Errorf("%s: %+v", what, o)
			}
			r.restart()
		}
	}
	if err := os.RemoveAll(r.path); err != nil {
		t.Fatal(err)
	}
	r.write("b\n")
	if o := r.Overview(); o.File.Err != "" || o.Pins != 0 {
		t.Errorf("%+v", o)
	}
}

// TestFileInTheMiddleOfBeingWritten is not taken for a short one.
func TestFileInTheMiddleOfBeingWritten(t *testing.T) {
	r, _ := newFileRig(t)
	r.write("a\nb\n")
	r.fetchDue()
	for _, text := range []string{"", "a", "a\nb\n"} {
		if err := os.WriteFile(r.path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r.look()
		if names := refs(r.List()); len(names) != 2 {
			t.Fatalf("%v", names)
		}
	}
}

// TestFileBeyondTheCache pins what fits, in the order of the references, and the
// rest once there is room.
func TestFileBeyondTheCache(t *testing.T) {
	r, images := newFileRig(t)
	for _, name := range []string{"d", "e"} {
		images[name] = r.pushImage(name, 20)
		r.hub["docker.io/library/"+name+":latest"] = images[name].digest
	}
	r.write("a\nb\nc\nd\ne\n")
	r.fetchDue()
	o := r.Overview()
	if o.Pins != 3 || !strings.HasPrefix(o.Refused, "docker.io/library/") || !strings.Contains(o.Refused, "are pinned, this image needs 20 MiB") || o.Bytes > o.Limit {
		t.Errorf("%+v", o)
	}
	r.write("a\nd\ne\n")
	r.fetchDue()
	if o := r.Overview(); o.Pins != 3 || o.Refused != "" {
		t.Errorf("%+v", o)
	}
	r.wantHeld(true, "d", images["d"].all()...)
}

// TestLineLeavesMeanwhile: an image is not pinned whose line left the file while its
// manifest was fetched.
func TestLineLeavesMeanwhile(t *testing.T) {
	r, _ := newFileRig(t)
	r.write("a\n")
	one, _ := r.due()
	r.write("b\n")
	r.try(t.Context(), one)
	if names := refs(r.List()); !slices.Equal(names, []string{"docker.io/library/b:latest"}) {
		t.Error(names)
	}
}

func FuzzParseLine(f *testing.F) {
	for _, text := range []string{"a", "ghcr.io/acme/app:1 platforms=linux/amd64", "# comment", "a platforms=all #", "a@sha256:x"} {
		f.Add(text)
	}
	p := &Pins{o: Options{Default: "docker.io", Repository: func(registry, _ string) (Repository, error) { return Repository{Registry: registry}, nil }}}
	f.Fuzz(func(t *testing.T, text string) {
		one, err := p.parseLine(text)
		if err != nil || one == nil {
			return
		}
		if back, err := reference.Parse(one.key(), "docker.io"); err != nil || back != one.ref {
			t.Errorf("%q is %+v, %v", text, back, err)
		}
	})
}
