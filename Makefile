# Every command sets up .venv by itself: once, and again when a requirements file changes.
# Needed on the machine: make, Python 3.11 or newer with its venv module, and the network the first time.

PYTHON ?= python3
VENV_PYTHON := .venv/bin/python

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test lint clean

help:   ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1	/p' Makefile

demo: .venv/requirements.stamp build/astronaut.png   ## let a portrait speak: results/demo.mp4
	$(VENV_PYTHON) inference.py --face build/astronaut.png --audio assets/speech.wav --detector haar --outfile results/demo.mp4
	@echo "The video is $$PWD/results/demo.mp4"

test: .venv/requirements-dev.stamp   ## run the tests
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n 2 -q

lint: .venv/requirements-dev.stamp   ## check style and types
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m mypy

clean:   ## remove .venv, build and the tools' caches; results and runs stay
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# NASA's portrait of Eileen Collins, released into the public domain; scikit-image carries it.
build/astronaut.png: | .venv/requirements.stamp
	@mkdir -p build results
	$(VENV_PYTHON) -c 'from skimage import data, io; io.imsave("$@", data.astronaut())'

# A stamp says that .venv holds what its requirements file asks for. All stamps go before pip starts, so that an
# interrupted set-up leaves none; every requirements file includes requirements.txt, so its stamp always comes back.
.venv/%.stamp: %.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo 'Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo 'Setting up .venv from $<: some minutes and about 2 GB, only this time.'
	@rm -f .venv/*.stamp
	"$(PYTHON)" -m venv .venv
	$(VENV_PYTHON) -m pip install --disable-pip-version-check -r $<
	@$(opencv_without_display)
	@touch .venv/requirements.stamp $@
.venv/requirements-train.stamp: requirements.txt
.venv/requirements-dev.stamp: requirements.txt requirements-train.txt

# face-alignment insists on opencv-python, which needs libGL. Where the system lacks it, the headless wheel of the same
# version takes its place. Both own the folder cv2: the one must go first, and the other be written out in full.
define opencv_without_display
set -e; \
error=$$($(VENV_PYTHON) -c 'import cv2' 2>&1) && exit 0; \
case $$error in *'cannot open shared object file'*) ;; *) printf '%s\n' "$$error" >&2; exit 1;; esac; \
version=$$($(VENV_PYTHON) -c 'from importlib.metadata import version; print(version("opencv-python"))'); \
echo "opencv-python lacks a system library ($${error##*ImportError: }): taking opencv-python-headless $$version instead."; \
$(VENV_PYTHON) -m pip uninstall --quiet --yes opencv-python; \
$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check \
  --no-deps --force-reinstall "opencv-python-headless==$$version"; \
$(VENV_PYTHON) -c 'import cv2'
endef
