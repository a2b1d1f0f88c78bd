package admin

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// minToken is the minimum length of the token, in characters. An operator may
// have written the file.
const minToken = 32

// tokenEvery is how often a token's file is looked at, at most.
const tokenEvery = time.Second

// TokenFile returns the token in a file, which is made if there is none, and read
// again when it has changed. The token is empty while that fails, which is logged.
func TokenFile(name string, now func() time.Time, log *slog.Logger) (token func() string) {
	var mu sync.Mutex
	var text, sign string
	var looked time.Time
	look := func() string {
		mu.Lock()
		defer mu.Unlock()
		if now().Sub(looked).Abs() < tokenEvery {
			return text
		}
		looked = now()
		if before := sign; before != "" && before == signOf(name) {
			return text
		}
		var exposed bool
		var err error
		if text, exposed, err = Token(name); err != nil {
			log.Warn("a token of the admin port cannot be read or made, and opens nothing", "file", name, "err", err)
		}
		if exposed {
			log.Warn("others can read a token of the admin port; set its mode to 0600", "file", name)
		}
		sign = signOf(name)
		return text
	}
	look()
	return look
}

// signOf returns what changes with a file; empty where that cannot be told.
func signOf(name string) string {
	info, err := os.Lstat(name)
	if err != nil {
		return ""
	}
	return fmt.Sprint(info.ModTime().UnixNano(), info.Size(), info.Mode())
}

// Token reads the token from a file. If the file does not exist, it is created
// with a random token of 256 bits. exposed reports whether users other than the
// owner can read the file.
func Token(name string) (token string, exposed bool, err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return readToken(name)
	}
	if err != nil {
		return "", false, err
	}
	random := make([]byte, 32)
	_, _ = rand.Read(random) // never fails
	token = hex.EncodeToString(random)
	_, err = f.WriteString(token + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", false, errors.Join(err, os.Remove(name))
	}
	return token, false, nil
}

func readToken(name string) (token string, exposed bool, err error) {
	info, err := os.Lstat(name)
	if err != nil {
		return "", false, err
	}
	if !info.Mode().IsRegular() {
		return "", false, fmt.Errorf("%s is no regular file", name)
	}
	content, err := os.ReadFile(name)
	if err != nil {
		return "", false, err
	}
	if token = strings.TrimSpace(string(content)); len(token) < minToken {
		return "", false, fmt.Errorf("%s holds less than %d characters; remove it, and the next start makes one", name, minToken)
	}
	return token, info.Mode().Perm()&0o077 != 0, nil
}
