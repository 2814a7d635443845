// Package channel speaks to the host that runs this program, if one does.
package channel

import (
	"errors"
	"os"
	"strconv"
	"sync"
	"syscall"
	"unicode/utf8"
)

// The host leaves a socket here.
const descriptor = 3

// ErrAlone says that no host runs this program, or that it has nothing to answer.
var ErrAlone = errors.New("not run by kernelagent")

// ErrDenied says that nobody can answer what was asked for.
var ErrDenied = errors.New("nobody can answer")

var (
	lock sync.Mutex
	host *os.File
)

func init() {
	kind, err := syscall.GetsockoptInt(descriptor, syscall.SOL_SOCKET, syscall.SO_DOMAIN)
	if err == nil && kind == syscall.AF_UNIX {
		syscall.CloseOnExec(descriptor)
		host = os.NewFile(descriptor, "host")
	}
}

// Exchange sends a line of JSON and waits until it was handled: output that is written afterwards
// comes after it. An answer begins with + or is -, for one that was denied.
func Exchange(line []byte) (string, error) {
	lock.Lock()
	defer lock.Unlock()
	if host == nil {
		return "", ErrAlone
	}
	if _, err := host.Write(append(line, '\n')); err != nil {
		return "", err
	}
	var answer []byte
	buffer := make([]byte, 4096)
	for len(answer) == 0 || answer[len(answer)-1] != '\n' {
		n, err := host.Read(buffer)
		if err != nil {
			return "", err
		}
		answer = append(answer, buffer[:n]...)
	}
	if answer[0] != '+' {
		return "", ErrDenied
	}
	return string(answer[1 : len(answer)-1]), nil
}

// Quote writes a text as JSON.
func Quote(to []byte, text string) []byte {
	to = append(to, '"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			to = append(to, '\\', byte(r))
		case r < 0x20:
			to = append(to, `\u00`...)
			to = append(to, "0123456789abcdef"[r>>4], "0123456789abcdef"[r&15])
		default:
			to = utf8.AppendRune(to, r)
		}
	}
	return append(to, '"')
}

// Field writes a member of an object.
func Field(to []byte, name string, value string) []byte {
	to = append(to, ',')
	to = Quote(to, name)
	to = append(to, ':')
	return Quote(to, value)
}

// Flag writes a member of an object that is true or false.
func Flag(to []byte, name string, value bool) []byte {
	to = append(to, ',')
	to = Quote(to, name)
	to = append(to, ':')
	return strconv.AppendBool(to, value)
}
